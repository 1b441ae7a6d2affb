"""Rows of results as numbers to compare: last and best steps, paired differences to the rule."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unsup_rule.evaluation.setting import Data
from unsup_rule.evaluation.store import Row
from unsup_rule.tasks.fewshot import HEADLINE, mean_and_error

SURE = 2.0  # standard errors that a difference must exceed to be called one


@dataclasses.dataclass(frozen=True)
class Value:
  """A mean over seeds at one step.

  Attributes:
    step: training steps.
    mean: accuracy.
    error: its standard error.
    by_seed: what it is the mean of.
  """

  step: int
  mean: float
  error: float
  by_seed: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Difference:
  """The rule minus a baseline, paired by seed; positive where the rule is better."""

  mean: float
  error: float

  @property
  def verdict(self) -> str:
    """ "better", "worse" or "level", as the rule is."""
    if abs(self.mean) <= SURE * self.error:
      return "level"
    return "better" if self.mean > 0 else "worse"


def succeeded(rows: Sequence[Row]) -> list[Row]:
  """Rows with numbers."""
  return [row for row in rows if row["status"] == "ok"]


def values(row: Row, probe: str) -> list[Value]:
  """Accuracies of a row in the order of steps."""
  return [
    Value(m["step"], *mean_and_error(m[probe]), tuple(m[probe]))
    for m in row["measurements"]
    if m[probe]
  ]


def last(row: Row, probe: str) -> Value | None:
  """The accuracy after all steps, or None."""
  found = values(row, probe)
  return found[-1] if found else None


def best(row: Row, probe: str) -> Value | None:
  """The accuracy at the step that is best on validation draws; the last step without these."""
  by_step = {value.step: value for value in values(row, probe)}
  chosen = {
    m["step"]: mean_and_error(m["validation"])[0]
    for m in row["measurements"]
    if m.get("validation")
  }
  steps = [step for step in chosen if step in by_step]
  return by_step[max(steps, key=lambda step: chosen[step])] if steps else last(row, probe)


def reported(row: Row) -> Value:
  """What a table leads with: the last step, by the fair probe."""
  value = last(row, HEADLINE)
  assert value is not None  # Every method has features.
  return value


def difference(rule: Value, other: Value) -> Difference:
  """Paired by seed: the same base-model seeds, permutations and draws.

  Where one has fewer seeds, those are the first ones of the other.
  """
  common = min(len(rule.by_seed), len(other.by_seed))
  return difference_of(rule.by_seed[:common], other.by_seed[:common])


def difference_of(rule_S: Sequence[float], other_S: Sequence[float]) -> Difference:
  """Of accuracies by seed."""
  return Difference(*mean_and_error(np.subtract(rule_S, other_S)))


def context(row: Row) -> tuple[object, ...]:
  """What rows of one table share: data, architecture and seeds, permuted or not."""
  return (*comparable(row), n_seeds(row))


def comparable(row: Row) -> tuple[object, ...]:
  """What rows share that can be compared seed by seed, as far as both have them."""
  identity = row["identity"]
  names = ("width", "hidden_layers", "n_outputs", "nonlinearity", "batch_size")
  protocol = ("draws", "examples_per_class", "seed", "layers")
  return (data_label(row), *(identity[name] for name in (*names, *protocol)))


def data_label(row: Row) -> str:
  """For people: the data set and its resolution."""
  return Data.from_settings(row["identity"]["data"]).label


def method_label(row: Row) -> str:
  """For people: the method, and whether its inputs are in their natural order."""
  return row["label"] + ("" if row["identity"]["permute"] else ", not permuted")


def by_seeds(rows: Sequence[Row]) -> list[Row]:
  """Rows with the most seeds last: these count where a dictionary takes several for one."""
  return sorted(rows, key=n_seeds)


def n_seeds(row: Row) -> int:
  """Number of base models."""
  return row["identity"]["seeds"]


def tables(rows: Sequence[Row]) -> dict[tuple[object, ...], list[Row]]:
  """Successful rows by context, in the order of first appearance."""
  groups: dict[tuple[object, ...], list[Row]] = {}
  for row in succeeded(rows):
    groups.setdefault(context(row), []).append(row)
  return groups


def rule_of(group: Sequence[Row]) -> Row | None:
  """The rule's row of a table, with permuted inputs if there are both."""
  rules = [row for row in group if row["method"] == "rule"]
  return min(rules, key=lambda row: not row["identity"]["permute"], default=None)
