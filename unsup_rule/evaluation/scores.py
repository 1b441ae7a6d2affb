"""One number for a rule: the mean of its normalised accuracies, beside another rule's.

An accuracy a of W classes is normalised to (a - 1/W) / (1 - 1/W): 0 is chance and 1 is no error, so
that problems of different numbers of classes have the same weight. Rules share base models,
permutations and draws, so differences are paired by seed. The error of the mean counts the problems
as given and base models as drawn: the root of the sum of each problem's squared error, over their
number.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.store import Row
from unsup_rule.tasks.fewshot import HEADLINE, mean_and_error


@dataclasses.dataclass(frozen=True)
class Score:
  """One problem, or the mean of all.

  Attributes:
    label: for people.
    values: of each method, by name: accuracy, or the mean of normalised accuracies.
    difference: the first method minus the second, None without one.
  """

  label: str
  values: dict[str, float]
  difference: comparison.Difference | None


def scores(methods: Mapping[str, Sequence[Row]]) -> list[Score]:
  """A line for each problem that all methods were measured on, and last the mean of all.

  Args:
    methods: rows by the name of the method; differences are of the first two.
  """
  by_context = [{comparison.context(row): row for row in rows} for rows in methods.values()]
  shared = [c for c in by_context[0] if all(c in rows for rows in by_context)]
  lines, normalised_TxMxS = [], []
  for context in shared:
    rows = [rows[context] for rows in by_context]
    seeds_MxS = np.array([comparison.reported(row).by_seed for row in rows])
    found = comparison.difference_of(*seeds_MxS[:2]) if len(rows) > 1 else None
    means = dict(zip(methods, seeds_MxS.mean(axis=1).tolist(), strict=True))
    lines.append(Score(_label(rows[0]), means, found))
    chance = 1 / rows[0]["ways"]
    normalised_TxMxS.append((seeds_MxS - chance) / (1 - chance))
  return [*lines, _mean(list(methods), normalised_TxMxS)] if lines else []


def _mean(names: Sequence[str], normalised_TxMxS: Sequence[np.ndarray]) -> Score:
  means_M = np.mean([seeds_MxS.mean(axis=1) for seeds_MxS in normalised_TxMxS], axis=0)
  found = None
  if len(names) > 1:
    parts = [mean_and_error(seeds_MxS[0] - seeds_MxS[1]) for seeds_MxS in normalised_TxMxS]
    mean = float(np.mean([mean for mean, _ in parts]))
    error = float(np.sqrt(np.sum(np.square([error for _, error in parts]))) / len(parts))
    found = comparison.Difference(mean, error)
  values = dict(zip(names, means_M.tolist(), strict=True))
  return Score("mean of normalised accuracies", values, found)


def _label(row: Row) -> str:
  identity = row["identity"]
  layers = f"{identity['hidden_layers']}x{identity['width']}"
  return f"{comparison.data_label(row)}, {row['ways']}-way, {layers}"


def table(lines: Sequence[Score]) -> str:
  """The scores as text, for a terminal."""
  names = list(lines[0].values)
  width = max(len(line.label) for line in lines)
  columns = [max(8, len(name)) for name in names]
  heads = "  ".join(f"{name:>{n}}" for name, n in zip(names, columns, strict=True))
  title = f"{names[0]} minus {names[1]}" if len(names) > 1 else ""
  text = [f"{f'accuracy, {HEADLINE}':<{width}}  {heads}  {title}".rstrip()]
  for line in lines:
    values = zip(line.values.values(), columns, strict=True)
    cells = "  ".join(f"{value:>{n}.4f}" for value, n in values)
    found = line.difference
    end = "" if found is None else f"{found.mean:+.4f} ± {found.error:.4f} {found.verdict}"
    text.append(f"{line.label:<{width}}  {cells}  {end}".rstrip())
  return "\n".join(text)
