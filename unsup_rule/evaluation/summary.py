"""The headline of a report: every method on every data set, who wins, and what it costs."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.comparison import Difference, Value
from unsup_rule.evaluation.methods import RULES
from unsup_rule.evaluation.store import Row
from unsup_rule.tasks.fewshot import HEADLINE

T = TypeVar("T")

_ARCHITECTURE = ("width", "hidden_layers", "n_outputs", "nonlinearity", "batch_size")
_CLOSE = 0.01  # accuracy that a cheaper method may lose and still be recommended


@dataclasses.dataclass(frozen=True)
class Line:
  """One method of the headline table.

  Attributes:
    label: for people.
    method: its name in gin.
    about, source: what it is, and who published it.
    is_rule: whether it is the rule, read in one way or another.
    reference: whether it sees what the others do not.
    values: by data set; a rival's at its best step, chosen on validation draws.
    differences: the rule, read from all layers if that was measured, minus this method, by data
      set; empty for the rule.
    seconds: processor time of one fit and its probes, by data set.
  """

  label: str
  method: str
  about: str
  source: str
  is_rule: bool
  reference: bool
  values: dict[str, Value]
  differences: dict[str, Difference]
  seconds: dict[str, float]

  @property
  def mean(self) -> float:
    """Over the data sets that it was measured on."""
    return float(np.mean([value.mean for value in self.values.values()]))


@dataclasses.dataclass(frozen=True)
class Headline:
  """The main table: one architecture, permuted inputs.

  The rule may be there twice, read from its embedding and from all layers.

  Attributes:
    data: labels of the data sets, in the order of the suite.
    kinds: of each data set: "images", "texts" or "tables".
    lines: methods, the best first; references are in a block of their own.
    references: the same of methods that see more.
    identity: of one of the cells, for the text.
  """

  data: list[str]
  kinds: dict[str, str]
  lines: list[Line]
  references: list[Line]
  identity: Row

  @property
  def rule(self) -> Line | None:
    """The rule's line that others are compared with."""
    return _of_rule({line.method: line for line in self.lines})

  def strongest(self, label: str) -> Line:
    """The best method on a data set but for the rule and references."""
    rivals = [line for line in self.lines if label in line.values and not line.is_rule]
    return max(rivals, key=lambda line: line.values[label].mean)


def headline(rows: Sequence[Row], probe: str = HEADLINE) -> Headline | None:
  """The table of the architecture that most methods were measured on, or None."""
  usable = [r for r in comparison.succeeded(rows) if r["identity"]["permute"]]
  groups: dict[tuple[object, ...], list[Row]] = collections.defaultdict(list)
  for row in usable:
    groups[tuple(str(row["identity"][name]) for name in _ARCHITECTURE)].append(row)
  if not groups:
    return None
  chosen = max(groups.values(), key=lambda group: len({row["label"] for row in group}))
  if len({row["label"] for row in chosen}) < 2:
    return None
  data = list(dict.fromkeys(map(comparison.data_label, chosen)))
  lines = _lines(chosen, probe)
  lines.sort(key=lambda line: _order(line, data))
  return Headline(
    data,
    {comparison.data_label(row): _kind(row) for row in chosen},
    [line for line in lines if not line.reference],
    [line for line in lines if line.reference],
    chosen[0]["identity"],
  )


def _order(line: Line, data: Sequence[str]) -> tuple[bool, float]:
  """Methods on all data sets first, by their mean."""
  return len(line.values) < len(data), -line.mean


def _kind(row: Row) -> str:
  data = row["identity"]["data"]
  name = data["name"].split("/")[0]
  if name in ("imdb_reviews", "bags"):
    return "texts"
  tables = ("wine", "breast_cancer", "covertype", "manifolds", "two_moons")
  return "tables" if name in tables else "images"


def _of_rule(by_method: Mapping[str, T]) -> T | None:
  """What is there of the rule, of its reading from all layers if that was measured."""
  return next((by_method[name] for name in reversed(RULES) if name in by_method), None)


def _lines(rows: Sequence[Row], probe: str) -> list[Line]:
  # The same data set may be there with several numbers of seeds: the most seeds count.
  by_method: dict[str, dict[str, Row]] = {}
  for row in comparison.by_seeds(rows):
    by_method.setdefault(row["label"], {})[comparison.data_label(row)] = row
  rule = _of_rule({next(iter(of.values()))["method"]: of for of in by_method.values()}) or {}
  return [line for of in by_method.values() if (line := _line(of, rule, probe)).values]


def _line(of: dict[str, Row], rule: dict[str, Row], probe: str) -> Line:
  first = next(iter(of.values()))
  is_rule = first["method"] in RULES
  found = {label: value_of(row, probe) for label, row in of.items()}
  values = {label: value for label, value in found.items() if value is not None}
  differences = {}
  for label, value in values.items():
    mine = value_of(rule[label], probe) if label in rule and not is_rule else None
    if mine is not None:
      differences[label] = comparison.difference(mine, value)
  return Line(
    first["label"],
    first["method"],
    first["about"],
    first.get("source", ""),
    is_rule,
    bool(first.get("reference")),
    values,
    differences,
    {label: _seconds(row) for label, row in of.items()},
  )


def _seconds(row: Row) -> float:
  """Processor time of one fit, whichever cell of several that share it has spent it."""
  return (row["cpu_seconds"] + row.get("borrowed_seconds", 0.0)) / comparison.n_seeds(row)


def value_of(row: Row, probe: str = HEADLINE) -> Value | None:
  """What a row is compared by: the rule's last step, another method's best; its own output too.

  A method that predicts by itself and is better at it than the probe on its features is taken at
  its word.
  """
  if row["method"] in RULES:
    return comparison.last(row, probe)
  found = [v for v in (comparison.best(row, probe), comparison.best(row, "own")) if v is not None]
  return max(found, key=lambda value: value.mean, default=None)


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """Sure differences of the rule, each as (data set, method, difference)."""

  wins: list[tuple[str, str, Difference]]
  losses: list[tuple[str, str, Difference]]
  level: list[tuple[str, str, Difference]]


def verdicts(table: Headline) -> Verdicts:
  """Where the rule wins and loses against methods that see no more than it does."""
  found: dict[str, list[tuple[str, str, Difference]]] = {"better": [], "worse": [], "level": []}
  for label in table.data:
    for line in table.lines:
      if label in line.differences:
        difference = line.differences[label]
        found[difference.verdict].append((label, line.label, difference))
  return Verdicts(found["better"], found["worse"], found["level"])


@dataclasses.dataclass(frozen=True)
class Choice:
  """A method on one kind of data: means over its data sets.

  Attributes:
    line: the method.
    accuracy: mean accuracy.
    seconds: mean processor time of a fit.
  """

  line: Line
  accuracy: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class Advice:
  """Which method to use for a kind of data.

  Attributes:
    kind: "images", "texts" or "tables".
    ranked: methods that were measured on all data sets of the kind, the best first.
    cheapest: the fastest of those that are close to the best.
  """

  kind: str
  ranked: list[Choice]
  cheapest: Choice

  @property
  def rule(self) -> tuple[int, Choice] | None:
    """The rule's place, from 1, and what it does."""
    places = enumerate(self.ranked, 1)
    return next(((place, one) for place, one in places if one.line.is_rule), None)


def advice(table: Headline) -> list[Advice]:
  """For each kind of data."""
  found = []
  for kind in dict.fromkeys(table.kinds.values()):
    data = [label for label in table.data if table.kinds[label] == kind]
    ranked = [
      Choice(
        line,
        float(np.mean([line.values[label].mean for label in data])),
        float(np.mean([line.seconds[label] for label in data])),
      )
      for line in table.lines
      if all(label in line.values for label in data)
    ]
    ranked.sort(key=lambda choice: -choice.accuracy)
    close = [choice for choice in ranked if choice.accuracy >= ranked[0].accuracy - _CLOSE]
    if ranked:
      found.append(Advice(kind, ranked, min(close, key=lambda choice: choice.seconds)))
  return found
