"""The rules in the wheel, by what they are for: names change with each version."""

from unsup_rule.weights.pretrained import DEFAULT, names

(QUICK,) = set(names()) - {DEFAULT}
