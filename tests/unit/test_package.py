"""What `import unsup_rule` gives."""

import pytest

import unsup_rule


@pytest.mark.parametrize("name", ["MLP", "MLPTaskFamily", "RidgeProbe", "UnsupervisedRule"])
def test_public_names_are_found_where_they_live(name):
  assert getattr(unsup_rule, name).__name__ == name
  assert name in dir(unsup_rule)


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'Rule'"):
    _ = unsup_rule.Rule
