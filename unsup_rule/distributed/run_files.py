"""The files of a distributed run, in the formats of local training."""

import collections
import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from unsup_rule import storage
from unsup_rule.distributed.meta_parameters import MetaParameterStore, Update
from unsup_rule.distributed.statistics import Report, WorkerStatistics
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import cores
from unsup_rule.meta import checkpoint, curve, progress, run_folder, trees
from unsup_rule.meta.events import EventWriter
from unsup_rule.meta.settings import Settings

_STATUS_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_KEPT_SNAPSHOTS = 4  # Of a generation: evaluations take a while.


class RunFiles:
  """Saves a learner, and writes its curve, its events and its status.

  A disk that is full does not end the training: what could not be written is tried again at the
  next occasion, and `problem` says so meanwhile.

  Attributes:
    generation: of the population, for checkpoints; "" where there is none.
    report: returns what belongs in `status.json`.
    problem: why the last write failed, or "".
    saved_step: of the newest checkpoint.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    settings: Settings,
    store: MetaParameterStore,
    statistics: WorkerStatistics,
    found: Mapping[str, Any] | None,
  ):
    """Opens the files.

    Args:
      folder: of the run.
      settings: what gin says.
      store: what to save.
      statistics: what to save beside it.
      found: the checkpoint that the run goes on from, or None.
    """
    self.folder, self.problem, self.generation = folder, "", ""
    self._settings, self._store, self._statistics = settings, store, statistics
    first_step = int(found["step"]) if found else 0
    self.saved_step = first_step if found else -1
    self._seconds_before = float(found["seconds"]) if found else 0.0
    self._began = self._saved_at = time.monotonic()
    self._events = EventWriter(folder, first_step + 1)
    self._rows: curve.Curve | None = curve.Curve(folder, first_step)
    self._waiting: collections.deque[dict[str, float]] = collections.deque()
    self._last: Update | None = None
    self._last_at = self._began
    self._refused_shown = sum(statistics.refused.values())
    self._status_at = self._reported_at = 0.0
    self.report: Callable[[], Report] = dict

  @property
  def seconds(self) -> float:
    """Time of training over all sessions."""
    return self._seconds_before + time.monotonic() - self._began

  def record(self, update: Update) -> None:
    """Writes a row of the curve, and the events of an update."""
    theta_mean_abs = trees.mean_abs(self._store.theta)
    with self._tolerant():
      self._events.scalars(update.step, self._scalars(update, theta_mean_abs))
    refused = sum(self._statistics.refused.values())
    losses = dict(self._statistics.losses)  # Calls of workers add to it.
    row = {
      "step": update.step,
      "seconds": self.seconds,
      "loss": update.loss,
      "gradient_norm": update.gradient_norm,
      "theta_mean_abs": theta_mean_abs,
      "dropped": refused - self._refused_shown,
    }
    row |= {f"{curve.SOURCE_PREFIX}{name}": x for name, x in losses.items()}
    self._waiting.append(row | curve.coefficients(self._store.theta))
    with self._tolerant():
      self._write_waiting()
    self._refused_shown = refused
    self._last, self._last_at = update, time.monotonic()

  def _write_waiting(self) -> None:
    """Writes rows of the curve; those that find no room wait for the next one."""
    rows = self._rows or curve.Curve(self.folder, int(self._waiting[0]["step"]) - 1)
    self._rows = None  # A write that fails may leave it closed.
    while self._waiting:
      rows.add(**self._waiting[0])
      self._waiting.popleft()
    self._rows = rows

  def save_where_due(self) -> None:
    """Saves, and writes the status, where it is time to."""
    since = self._store.step - self.saved_step
    seconds = time.monotonic() - self._saved_at
    if since and (
      seconds >= self._settings.trainer.checkpoint_every_seconds
      or since >= self._settings.distributed.checkpoint_every_updates
    ):
      with self._tolerant():
        self.save()
    if time.monotonic() - self._status_at >= _STATUS_SECONDS:
      self.write_status("running")

  def save(self) -> None:
    """Writes a checkpoint, `params` and `rule.npz`.

    Raises:
      UnsupRuleError: they cannot be written; those before them are intact.
    """
    step = self._store.step
    self._saved_at = time.monotonic()
    checkpoint.save_state(self.folder, step, self._state())
    run_folder.write_theta(self.folder, self._store.theta, step, self._settings)
    self.saved_step, self.problem = step, ""

  def save_snapshot(self) -> pathlib.Path | None:
    """Writes theta for an evaluation; returns the checkpoint's path, or None where it failed."""
    with self._tolerant():
      folder = self.folder / "snapshots" / self.generation
      return checkpoint.save_state(
        folder, self._store.step, self._state(), _KEPT_SNAPSHOTS
      ).resolve()
    return None

  def save_finally(self, attempts: int = 3) -> None:
    """Saves, and tries again after a failure.

    Raises:
      UnsupRuleError: it failed each time.
    """
    for attempt in range(attempts):
      try:
        return self.save()
      except UnsupRuleError:
        if attempt == attempts - 1:
          raise
        time.sleep(_RETRY_SECONDS)

  def write_status(self, state: str) -> None:
    """Writes `status.json`: `state` and the report."""
    self._status_at = time.monotonic()
    content = {"state": state, "time": time.time(), **self.report()}
    with self._tolerant():
      storage.write_text(self.folder / "status.json", json.dumps(content))

  def about(self) -> Report:
    """Returns what these files know, for the report."""
    return {
      "num_steps": self._settings.run.num_steps,
      "seconds": self.seconds,
      "meta_loss": self._last.loss if self._last else None,
      "saved_step": max(self.saved_step, 0),
      "refused_updates": self._store.refused,
      "problem": self.problem,
    }

  def close(self) -> None:
    """Closes the files."""
    with contextlib.suppress(OSError):
      self._events.close()
      if self._rows is not None:
        self._rows.close()

  def _state(self) -> dict[str, object]:
    """Returns all that a resumed run needs."""
    return {
      "step": self._store.step,
      "seconds": self.seconds,
      "dropped": self._store.refused,
      "root_key": np.asarray(jax.random.PRNGKey(self._settings.trainer.seed)),
      "learner": trees.to_leaves(self._store.state),
      "slots": {},  # Estimators are the workers' own.
      "worker_statistics": self._statistics.to_state(),
      "generation": self.generation,
      "device": cores.devices(),
    }

  def _scalars(self, update: Update, theta_mean_abs: float) -> dict[str, float]:
    """Returns what TensorBoard shows of an update, and now and then of the run."""
    now = time.monotonic()
    values = {"meta_loss": update.loss}
    every = self._settings.run.summary_every_n
    if every and update.step % every == 0:
      values |= {
        "gradient_norm": update.gradient_norm,
        "theta_mean_abs": theta_mean_abs,
        "steps_per_second": 1 / max(now - self._last_at, 1e-9),
        "dropped_gradients": sum(self._statistics.refused.values()),
        "seconds": self.seconds,
      }
    if now - self._reported_at >= _STATUS_SECONDS:
      self._reported_at = now
      values |= _scalars_of(self.report())
    return values

  @contextlib.contextmanager
  def _tolerant(self) -> Iterator[None]:
    """Goes on where a write fails."""
    try:
      yield
    except (OSError, UnsupRuleError) as error:
      if not self.problem:
        progress.say(f"cannot write, going on: {error}")  # The log may be on that disk too.
      self.problem = str(error)


def _scalars_of(report: Report) -> dict[str, float]:
  """Returns what TensorBoard shows of a report."""
  names = (
    "gradients",
    "gradients_per_second",
    "staleness_mean",
    "staleness_max",
    "waiting",
    "learner_restarts",
  )
  values = {f"distributed/{name}": float(report[name]) for name in names if name in report}
  for reason, count in report.get("refused", {}).items():
    values[f"refused/{reason.replace(' ', '_')}"] = count
  for name, loss in report.get("losses", {}).items():
    values[f"meta_loss/{name}"] = loss
  for index, worker in report.get("workers", {}).items():
    values[f"workers/{index}/gradients_per_second"] = worker["gradients_per_second"]
    values[f"workers/{index}/restarts"] = worker["restarts"]
  return values
