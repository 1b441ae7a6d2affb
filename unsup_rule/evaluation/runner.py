"""Measures the cells of a suite, in order, and goes on where an earlier run was cut off."""

import io
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import numpy as np
import tqdm

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods.base import Snapshot, prepared
from unsup_rule.evaluation.setting import Inputs
from unsup_rule.evaluation.store import Row, Store
from unsup_rule.evaluation.suite import Cell
from unsup_rule.tasks import fewshot


def check(cells: Sequence[Cell]) -> None:
  """Loads each data set once, so that one that is missing or too small shows before any work."""
  for data, each in {(c.setting.data, c.setting.examples_per_class): None for c in cells}:
    data.load(data.train_split)
    data.load(data.test_split).require_per_class(2 * each)


def run(cells: Sequence[Cell], store: Store, folder: pathlib.Path, provenance: Row) -> list[Row]:
  """Measures the cells that have no result yet; one that failed before is tried again.

  Args:
    cells: what to measure.
    store: results so far, and where new ones go.
    folder: for the arrays that figures need.
    provenance: kept with each result.

  Returns:
    A row for each cell.
  """
  rest = [c for c in cells if (store.get(c.key) or {}).get("status") != "ok"]
  if len(rest) < len(cells):
    print(f"{len(cells) - len(rest)} of {len(cells)} cells are done already", file=sys.stderr)
  total = sum(c.setting.seeds * _cost(c) for c in rest)
  shown = "{percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}"
  seconds = 1 if sys.stderr.isatty() else 15  # between updates; in a file each is a line
  with tqdm.tqdm(total=total, bar_format=shown, disable=not rest, mininterval=seconds) as bar:
    for cell in rest:
      bar.set_postfix_str(cell.label, refresh=False)
      done = bar.n
      store.add(_attempt(cell, folder, provenance, bar))
      bar.update(max(0, done + cell.setting.seeds * _cost(cell) - bar.n))
  return [row for cell in cells if (row := store.get(cell.key)) is not None]


def _cost(cell: Cell) -> float:
  """Rough time of a seed; the constant stands for compilation and probes."""
  return 100 + cell.method.cost(cell.setting)


def _attempt(cell: Cell, folder: pathlib.Path, provenance: Row, bar: tqdm.tqdm) -> Row:
  """A cell's row, with status "ok" or "failed"; only a wish to stop passes through."""
  row: Row = {
    "key": cell.key,
    "identity": cell.identity,
    "method": cell.name,
    "label": cell.method.label,
    "about": cell.method.about,
    "source": cell.method.source,
    "reference": cell.method.reference,
    "status": "ok",
    "reason": "",
    "measurements": [],
    "provenance": provenance,
  }
  start = time.monotonic()
  try:
    row["measurements"] = measure(cell, folder, bar)
  except Exception as error:  # Whatever it is, the other cells go on and the report shows it.
    reason = (str(error).splitlines() or [""])[0]
    row["status"], row["reason"] = "failed", f"{type(error).__name__}: {reason}"[:300]
    bar.write(f"failed: {cell.label}: {row['reason']}", file=sys.stderr)
  row["seconds"] = round(time.monotonic() - start, 1)
  return row


def measure(
  cell: Cell, folder: pathlib.Path | None = None, bar: tqdm.tqdm | None = None
) -> list[Row]:
  """Fits and probes every seed.

  Returns:
    For each step: "step", and lists over seeds of accuracies by probe and of the objective;
    None for what the method does not have.
  """
  setting = cell.setting
  test = setting.data.load(setting.data.test_split)
  inputs = Inputs.of(setting.data.load(setting.data.train_split))
  if inputs.values_NxP.shape[1] != test.n_inputs:
    raise UnsupRuleError(f"{setting.data.label}: splits differ in the size of their examples")
  fit = prepared(cell.method, setting, inputs, Inputs.of(test))
  by_step: dict[int, Row] = {}
  inside: dict[str, np.ndarray] = {}
  for index in range(setting.seeds):
    episodes, truth_DxK = fewshot.draw(test, setting, index)
    for snapshot in fit(index, episodes):
      entry = by_step.setdefault(
        snapshot.step,
        {"step": snapshot.step, **{name: [] for name in (*fewshot.PROBES, "objective")}},
      )
      for name, value in _scores(snapshot, episodes, truth_DxK, index).items():
        entry[name].append(value)
      inside |= {f"{name}/{snapshot.step}": value for name, value in snapshot.inside.items()}
    if inside and index == 0:
      labels = np.concatenate([episodes.labels_DxK, truth_DxK], axis=1).ravel()
      inside |= {"labels": labels, "permutation": episodes.permutation}
    if bar is not None:
      bar.update(_cost(cell))
  if inside and folder is not None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **inside)
    storage.write_bytes(arrays_path(folder, cell.key), content.getvalue())
  return [
    {name: value if value else None for name, value in entry.items()} | {"step": entry["step"]}
    for entry in by_step.values()
  ]


def arrays_path(folder: str | os.PathLike, key: str) -> pathlib.Path:
  """Where a cell's arrays for figures are."""
  return pathlib.Path(folder) / "arrays" / f"{key}.npz"


def _scores(
  snapshot: Snapshot, episodes: fewshot.Episodes, truth_DxK: np.ndarray, index: int
) -> dict[str, float]:
  try:
    predicted = fewshot.predictions(snapshot.features_DxExF, episodes)
  except FloatingPointError as error:
    raise FloatingPointError(f"{error} at step {snapshot.step}, seed {index}") from error
  if snapshot.predictions_DxK is not None:
    predicted["own"] = snapshot.predictions_DxK
  scores = {name: fewshot.accuracy(value, truth_DxK) for name, value in predicted.items()}
  if snapshot.objective is not None:
    scores["objective"] = snapshot.objective
  return scores
