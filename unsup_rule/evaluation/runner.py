"""Measures the cells of a suite, and goes on where an earlier run was cut off."""

import pathlib
import sys
from collections.abc import Iterator, Sequence

import tqdm

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import measuring, processes
from unsup_rule.evaluation.plan import Plan
from unsup_rule.evaluation.store import Row, Store
from unsup_rule.evaluation.suite import Cell


def check(cells: Sequence[Cell]) -> None:
  """Loads each data set once, so that one that is missing or too small shows before any work."""
  for data, each in {(c.setting.data, c.setting.examples_per_class): None for c in cells}:
    data.load(data.train_split)
    test = data.load(data.test_split)
    test.require_per_class(2 * each)
    if test.n_classes < 2:
      raise UnsupRuleError(
        f"data set {data.label!r} has one class, and nothing to tell apart; give it more"
      )


def run(
  cells: Sequence[Cell],
  store: Store,
  folder: pathlib.Path,
  provenance: Row,
  plan: Plan,
  count: int = 0,
) -> list[Row]:
  """Measures the cells that have no result yet; one that failed before is tried again.

  Args:
    cells: what to measure.
    store: results so far, and where new ones go.
    folder: for the arrays that figures need.
    provenance: kept with each result.
    plan: where the cells come from.
    count: worker processes; with 0, cells are measured in this process, which has all cores and so
      may differ in the last digits.

  Returns:
    A row for each cell.
  """
  rest = [c for c in cells if (store.get(c.key) or {}).get("status") != "ok"]
  if len(rest) < len(cells):
    print(f"{len(cells) - len(rest)} of {len(cells)} cells are done already", file=sys.stderr)
  messages = (
    processes.run(rest, plan, folder, provenance, count)
    if count
    else _here(rest, folder, provenance)
  )
  done = dict.fromkeys([cell.key for cell in rest], 0.0)
  shown = "{percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}"
  seconds = 1 if sys.stderr.isatty() else 15  # between updates; in a file each is a line
  total = sum(cell.cost for cell in rest)
  settings = {"bar_format": shown, "mininterval": seconds, "miniters": 0}  # however little is done
  with tqdm.tqdm(total=total, disable=not rest, **settings) as bar:
    for cell, message in messages:
      if isinstance(message, dict):
        store.add(message)
        part = cell.cost - done[cell.key]
        if message["status"] != "ok":
          bar.write(f"failed: {cell.label}: {message['reason']}", file=sys.stderr)
      else:
        part = message
      done[cell.key] += part
      bar.set_postfix_str(cell.label, refresh=False)
      bar.update(min(max(0, part), total - bar.n))
  return [row for cell in cells if (row := store.get(cell.key)) is not None]


def _here(
  cells: Sequence[Cell], folder: pathlib.Path, provenance: Row
) -> Iterator[tuple[Cell, float | Row]]:
  for cell in cells:
    yield cell, measuring.attempt(cell, folder, provenance, lambda done: None)
