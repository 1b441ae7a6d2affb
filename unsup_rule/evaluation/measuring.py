"""Measures one cell: fits every seed, probes its features, keeps what figures show."""

import dataclasses
import io
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from unsup_rule import storage
from unsup_rule.data import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods.base import Snapshot, Transductive, prepared
from unsup_rule.evaluation.methods.rule import Rule
from unsup_rule.evaluation.setting import Inputs
from unsup_rule.evaluation.store import Row
from unsup_rule.evaluation.suite import Cell
from unsup_rule.tasks import fewshot, ridge_cv

_VALIDATION_DRAWS = 5  # of each seed
Progress = Callable[[float], object]  # is told of each part of a cell's cost that is done


def attempt(cell: Cell, folder: pathlib.Path, provenance: Row, progress: Progress) -> Row:
  """A cell's row, with status "ok" or "failed"; only a wish to stop passes through."""
  row = cell.row(provenance)
  start, cpu_start = time.monotonic(), time.process_time()
  try:
    row["ways"] = cell.setting.data.load(cell.setting.data.test_split).n_classes
    measurements = measure(cell, folder, progress)
    row["borrowed_seconds"] = round(sum(sum(m.pop("borrowed_seconds")) for m in measurements), 1)
    row["measurements"] = measurements
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
    For each step: "step", lists over seeds of accuracies by probe and of the objective, of the
    accuracy on draws of the train split ("validation", by which a method's best step is chosen),
    of processor time that was spent on the same model for another seed or cell
    ("borrowed_seconds"), and "layers" with such lists by the name of a layer; None for what the
    method does not have. Slow probes are fitted after the last step alone.
  """
  setting = cell.setting
  train, test = (setting.data.load(s) for s in (setting.data.train_split, setting.data.test_split))
  if train.n_inputs != test.n_inputs:
    raise UnsupRuleError(f"{setting.data.label}: splits differ in the size of their examples")
  start = time.process_time()
  fit = prepared(cell.method, setting, Inputs.of(train), Inputs.of(test))
  shared_seconds = time.process_time() - start
  by_step: dict[int, Row] = {}
  inside: dict[str, np.ndarray] = {}
  for index in range(setting.seeds):
    drawn = _draw(cell, train, test, index)
    borrowed = shared_seconds if index else 0.0
    share = 0.0  # of the seed that is done
    for snapshot, is_last in _marked(fit(index, drawn.episodes)):
      entry = by_step.setdefault(snapshot.step, _no_scores(snapshot.step))
      for name, value in _scores(snapshot, drawn, index, is_last).items():
        entry[name].append(value)
      entry["borrowed_seconds"].append(snapshot.borrowed_seconds + borrowed)
      borrowed = 0.0
      for name, value in _layer_scores(snapshot, drawn).items():
        entry["layers"].setdefault(name, []).append(value)
      inside |= {f"{name}/{snapshot.step}": value for name, value in snapshot.inside.items()}
      before, share = share, snapshot.step / max(1, setting.steps[-1])
      progress((share - before) * cell.cost / setting.seeds)
    if inside and index == 0:
      labels = np.concatenate([drawn.episodes.labels_DxK, drawn.truth_DxK], axis=1).ravel()
      inside |= {"labels": labels, "permutation": drawn.episodes.permutation}
    progress((1 - share) * cell.cost / setting.seeds)
  if inside and folder is not None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **inside)
    storage.write_bytes(arrays_path(folder, cell.key), content.getvalue())
  return [
    {name: value if value else None for name, value in entry.items()} | {"step": entry["step"]}
    for entry in by_step.values()
  ]


def _marked(snapshots: Iterable[Snapshot]) -> Iterator[tuple[Snapshot, bool]]:
  """Each with whether it is the last one."""
  before: Snapshot | None = None
  for snapshot in snapshots:
    if before is not None:
      yield before, False
    before = snapshot
  if before is not None:
    yield before, True


class _Drawn(NamedTuple):
  """Episodes of one seed: those that are tested on, then those that a step is chosen by.

  Attributes:
    episodes: all of them, as a method sees them.
    truth_DxK: classes of the query halves.
    tested: number of the first ones.
  """

  episodes: fewshot.Episodes
  truth_DxK: np.ndarray
  tested: int


def _draw(cell: Cell, train: Dataset, test: Dataset, index: int) -> _Drawn:
  """Without validation draws for the rule, which is reported after its last step, and for what has
  no step to choose: one that is measured once, or knows no inputs but those it is tested on.
  """
  setting = cell.setting
  episodes, truth_DxK = fewshot.draw(test, setting, index)
  chosen = not isinstance(cell.method, (Rule, Transductive)) and len(setting.steps) > 1
  if not chosen:
    return _Drawn(episodes, truth_DxK, len(truth_DxK))
  few = dataclasses.replace(setting, draws=min(setting.draws, _VALIDATION_DRAWS))
  chosen_by, chosen_truth_DxK = fewshot.draw(train, few, index, fewshot.VALIDATION)
  joint = dataclasses.replace(
    episodes,
    x_DxExP=np.concatenate([episodes.x_DxExP, chosen_by.x_DxExP]),
    labels_DxK=np.concatenate([episodes.labels_DxK, chosen_by.labels_DxK]),
  )
  return _Drawn(joint, np.concatenate([truth_DxK, chosen_truth_DxK]), len(truth_DxK))


def _no_scores(step: int) -> Row:
  names = (*fewshot.PROBES, "validation", "objective", "borrowed_seconds")
  return {"step": step, **{name: [] for name in names}, "layers": {}}


def arrays_path(folder: str | os.PathLike, key: str) -> pathlib.Path:
  """Where a cell's arrays for figures are."""
  return pathlib.Path(folder) / "arrays" / f"{key}.npz"


def _scores(snapshot: Snapshot, drawn: _Drawn, index: int, is_last: bool) -> dict[str, float]:
  try:
    predicted = fewshot.predictions(snapshot.features_DxExF, drawn.episodes, slow=is_last)
  except FloatingPointError as error:
    raise FloatingPointError(f"{error} at step {snapshot.step}, seed {index}") from error
  if snapshot.predictions_DxK is not None:
    predicted["own"] = snapshot.predictions_DxK
  n, truth_DxK = drawn.tested, drawn.truth_DxK
  scores = {name: fewshot.accuracy(p[:n], truth_DxK[:n]) for name, p in predicted.items()}
  if len(truth_DxK) > n:
    scores["validation"] = fewshot.accuracy(predicted[fewshot.HEADLINE][n:], truth_DxK[n:])
  if snapshot.objective is not None:
    scores["objective"] = snapshot.objective
  return scores


def _layer_scores(snapshot: Snapshot, drawn: _Drawn) -> dict[str, float]:
  labels_DxK, n = drawn.episodes.labels_DxK[: drawn.tested], drawn.tested
  return {
    name: fewshot.accuracy(ridge_cv.predict(features_DxExF[:n], labels_DxK), drawn.truth_DxK[:n])
    for name, features_DxExF in snapshot.layers.items()
  }
