"""The paper's claims, each as a measurement: met or not, and by how much.

A claim holds if each of its differences is above two standard errors; it is contradicted if one is
below minus two; between the two the measurement does not tell.
"""

import collections
import dataclasses
from collections.abc import Sequence

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.comparison import Difference
from unsup_rule.evaluation.store import Row
from unsup_rule.evaluation.summary import value_of
from unsup_rule.tasks.fewshot import HEADLINE, mean_and_error

_NEARLY = 0.02  # accuracy that "nearly as good" may lose
_BEATEN = ("vae_best", "vae", "supervised", "untrained")
_GARMENTS_AND_DIGITS = ("mnist", "fashion_mnist")


@dataclasses.dataclass(frozen=True)
class Claim:
  """One claim of the paper.

  Attributes:
    text: what it says.
    status: "met", "not met", "in part", "unclear" or "not measured".
    evidence: the numbers, a sentence each.
  """

  text: str
  status: str
  evidence: list[str]


def claims(rows: Sequence[Row]) -> list[Claim]:
  """All claims in the order of the paper."""
  rows = comparison.succeeded(rows)
  return [
    *(_few_shot(rows, probe) for probe in (HEADLINE, "ridge")),
    _permutation(rows),
    _sweep(rows, "width", "Generalises in width, to 10,000 units, and improves with it"),
    _sweep(rows, "hidden_layers", "Generalises in depth, to 11 layers (10 and the embedding)"),
    _nonlinearities(rows),
    _text(rows),
    _mismatch(rows),
    _prototypes(rows),
  ]


def _status(parts: Sequence[Difference]) -> str:
  verdicts = {part.verdict for part in parts}
  if not parts:
    return "not measured"
  if verdicts == {"better"}:
    return "met"
  if "worse" not in verdicts:
    return "unclear" if verdicts == {"level"} else "in part"
  return "in part" if "better" in verdicts else "not met"


def _evidence(label: str, found: Difference) -> str:
  return f"{label}: {found.mean:+.3f} ± {found.error:.3f}"


def _claim(text: str, parts: dict[str, Difference], more: Sequence[str] = ()) -> Claim:
  evidence = [_evidence(label, found) for label, found in parts.items()]
  return Claim(text, _status(list(parts.values())), [*evidence, *more])


def _difference(rule: Row, other: Row, probe: str = HEADLINE) -> Difference | None:
  mine, theirs = value_of(rule, probe), value_of(other, probe)
  if mine is None or theirs is None:
    return None
  return comparison.difference(mine, theirs)


def _pairs(rows: Sequence[Row], method: str, other: str) -> list[tuple[Row, Row]]:
  """Rows of two methods in the same setting, permuted inputs, by seeds: the most come last.

  A row is compared with the one that has as many seeds, if there are several.
  """
  rows = comparison.by_seeds([r for r in rows if r["identity"]["permute"]])
  others: dict[tuple[object, ...], list[Row]] = collections.defaultdict(list)
  for row in rows:
    if row["method"] == other:
      others[comparison.comparable(row)].append(row)
  return [
    (row, min(found, key=lambda two: abs(comparison.n_seeds(two) - comparison.n_seeds(row))))
    for row in rows
    if row["method"] == method and (found := others[comparison.comparable(row)])
  ]


def _few_shot(rows: Sequence[Row], probe: str) -> Claim:
  name = {"ridge": "the paper's probe"}.get(probe, "the fair probe")
  text = f"Few-shot on MNIST and Fashion-MNIST: above VAE, supervised and untrained ({name})"
  rows = [row for row in rows if row["identity"]["data"]["name"] in _GARMENTS_AND_DIGITS]
  rows = _usual(rows)
  parts = {}
  for method in _BEATEN:
    for rule, other in _pairs(rows, "rule", method):
      if (found := _difference(rule, other, probe)) is not None:
        parts[f"{comparison.data_label(rule)}, {other['label']}"] = found
  return _claim(text, parts)


def _usual(rows: Sequence[Row]) -> list[Row]:
  """Those of the commonest architecture, without the points of sweeps."""
  names = ("width", "hidden_layers", "nonlinearity", "batch_size")
  keys = [tuple(str(row["identity"][name]) for name in names) for row in rows]
  if not keys:
    return []
  (commonest, _), *_ = collections.Counter(keys).most_common(1)
  return [row for row, key in zip(rows, keys, strict=True) if key == commonest]


def _permutation(rows: Sequence[Row]) -> Claim:
  text = "Invariant to a permutation of the inputs"
  parts = _natural_minus_permuted(rows, "rule")
  if not parts:
    return Claim(text, "not measured", [])
  same = all(part.verdict == "level" for part in parts.values())
  evidence = [f"natural minus permuted, {_evidence(*part)}" for part in parts.items()]
  return Claim(text, "met" if same else "not met", evidence)


def _natural_minus_permuted(rows: Sequence[Row], method: str) -> dict[str, Difference]:
  parts = {}
  for group in comparison.tables(rows).values():
    mine = {row["identity"]["permute"]: row for row in group if row["method"] == method}
    if len(mine) == 2 and (found := _difference(mine[False], mine[True])) is not None:
      parts[comparison.data_label(mine[True])] = found
  return parts


def _swept(rows: Sequence[Row], attribute: str) -> list[tuple[Row, Row]]:
  """The rule and untrained at each value of an attribute that takes the most values."""
  others = [
    n for n in ("width", "hidden_layers", "nonlinearity", "seeds", "steps") if n != attribute
  ]
  groups: dict[tuple[object, ...], list[tuple[Row, Row]]] = collections.defaultdict(list)
  for rule, untrained in _pairs(rows, "rule", "untrained"):
    identity = rule["identity"]
    key = (comparison.data_label(rule), *(str(identity[name]) for name in others))
    groups[key].append((rule, untrained))
  longest = max(groups.values(), key=len, default=[])
  return longest if len(longest) > 1 else []


def _sweep(rows: Sequence[Row], attribute: str, text: str) -> Claim:
  pairs = sorted(_swept(rows, attribute), key=lambda pair: pair[0]["identity"][attribute])
  parts, accuracies = {}, []
  for rule, untrained in pairs:
    found, value = _difference(rule, untrained), value_of(rule)
    if found is not None and value is not None:
      parts[f"{rule['identity'][attribute]:,}, above untrained"] = found
      accuracies.append(value)
  more = []
  if accuracies and attribute == "width":
    gain = comparison.difference(accuracies[-1], accuracies[0])
    parts["widest minus narrowest"] = gain
    more = ["accuracy of the rule: " + ", ".join(f"{value.mean:.3f}" for value in accuracies)]
  return _claim(text, parts, more)


def _nonlinearities(rows: Sequence[Row]) -> Claim:
  text = "Unseen nonlinearities: all above untrained, leaky ReLU and Swish nearly as good as ReLU"
  pairs = {
    rule["identity"]["nonlinearity"]: (rule, other) for rule, other in _swept(rows, "nonlinearity")
  }
  parts = {}
  for name, pair in pairs.items():
    if (found := _difference(*pair)) is not None:
      parts[f"{name}, above untrained"] = found
  for name in ("leaky_relu", "swish"):
    if name in pairs and "relu" in pairs:
      mine, relu = value_of(pairs[name][0]), value_of(pairs["relu"][0])
      if mine is not None and relu is not None:
        found = comparison.difference(mine, relu)
        parts[f"{name} minus ReLU, {_NEARLY} allowed"] = Difference(
          found.mean + _NEARLY, found.error
        )
  return _claim(text, parts)


def _text(rows: Sequence[Row]) -> Claim:
  parts = {}
  for rule, other in _pairs(rows, "rule", "untrained"):
    found = _difference(rule, other)
    if rule["identity"]["data"]["name"] == "imdb_reviews" and found is not None:
      parts["IMDB, above untrained"] = found
  return _claim("Transfers from images to text (the paper: almost +.10, early in training)", parts)


def _mismatch(rows: Sequence[Row]) -> Claim:
  """A VAE's accuracy falls from one step to the last while its loss falls too."""
  parts, text = {}, "Objective mismatch: a VAE's accuracy falls while its loss still improves"
  for row in _usual(rows):
    several = len(row["measurements"]) > 1
    if row["method"] == "vae" and row["identity"]["permute"] and several:
      points = {value.step: value for value in comparison.values(row, HEADLINE)}
      losses = {m["step"]: mean_and_error(m["objective"])[0] for m in row["measurements"]}
      top, last = max(points.values(), key=lambda value: value.mean), points[max(points)]
      if losses[last.step] < losses[top.step]:
        label = f"{comparison.data_label(row)}, step {top.step} minus step {last.step}"
        parts[label] = comparison.difference(top, last)
      else:
        parts[f"{comparison.data_label(row)}, best at its last step"] = Difference(0.0, 0.0)
  return _claim(text, parts)


def _prototypes(rows: Sequence[Row]) -> Claim:
  text = "A prototypical network transfers features, so a permutation of the inputs breaks it"
  parts = _natural_minus_permuted(rows, "prototypes")
  return _claim(text, {f"natural minus permuted, {label}": d for label, d in parts.items()})
