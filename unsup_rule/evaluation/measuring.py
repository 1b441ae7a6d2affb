"""Measures one cell: fits every seed, probes its features, keeps what figures show."""

import io
import os
import pathlib
import time
from collections.abc import Callable

import numpy as np

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods.base import Snapshot, prepared
from unsup_rule.evaluation.setting import Inputs
from unsup_rule.evaluation.store import Row
from unsup_rule.evaluation.suite import Cell
from unsup_rule.tasks import fewshot

Progress = Callable[[float], object]  # is told of each part of a cell's cost that is done


def attempt(cell: Cell, folder: pathlib.Path, provenance: Row, progress: Progress) -> Row:
  """A cell's row, with status "ok" or "failed"; only a wish to stop passes through."""
  row = cell.row(provenance)
  start, cpu_start = time.monotonic(), time.process_time()
  try:
    row["ways"] = cell.setting.data.load(cell.setting.data.test_split).n_classes
    row["measurements"] = measure(cell, folder, progress)
  except Exception as error:  # Whatever it is, the other cells go on and the report shows it.
    reason = (str(error).splitlines() or [""])[0]
    row["status"], row["reason"] = "failed", f"{type(error).__name__}: {reason}"[:300]
  row["seconds"] = round(time.monotonic() - start, 1)
  row["cpu_seconds"] = round(time.process_time() - cpu_start, 1)
  return row


def measure(
  cell: Cell, folder: pathlib.Path | None = None, progress: Progress = lambda done: None
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
    progress(cell.cost / setting.seeds)
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
