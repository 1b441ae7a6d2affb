"""The files of a distributed run; stands for the library's `checkpoints` module and event writer.

The library keeps no final checkpoint, writes in place, and numbers by when it wrote. Here the
format is that of local training.
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from unsup_rule import storage
from unsup_rule.distributed.meta_parameters import ThetaKeeper, Update
from unsup_rule.distributed.options import DistributedOptions
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, curve, trees
from unsup_rule.meta.events import EventWriter
from unsup_rule.meta.options import TrainerOptions

_STATUS_SECONDS = 1.0
_KEPT_SNAPSHOTS = 4  # Of a generation: evaluations take a while.


class RunFiles:
  """Saves and restores a learner, and writes its curve, its events and its status.

  A disk that is full does not end the training: what could not be written is tried again at the
  next occasion, and `problem` says so meanwhile.

  Attributes:
    keeper: what to save; to be set before the loop begins.
    books: returns more that belongs in a checkpoint: the ledger, the generation.
    report: returns what belongs in `status.json`.
    losses: returns averages of the meta-loss by data set.
    refused: returns how many gradients were refused so far.
    before_update: called with the number of updates so far.
    problem: why the last write failed, or "".
    saved_step: of the newest checkpoint.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    found: Mapping[str, Any] | None,
    seed: int,
    num_steps: int,
  ):
    """Opens the files.

    Args:
      folder: of the run.
      found: the checkpoint to go on from, or None.
      seed: of the run.
      num_steps: updates in all, for the status.
    """
    self.folder, self.problem = folder, ""
    self._found, self._seed, self._num_steps = found, seed, num_steps
    self._options, self._trainer = DistributedOptions(), TrainerOptions()
    self._first_step = int(found["step"]) if found else 0
    self.saved_step = self._first_step
    self._seconds_before = float(found["seconds"]) if found else 0.0
    self._began = self._saved_at = time.monotonic()
    self._events = EventWriter(folder, self._first_step + 1)
    self._rows: curve.Curve | None = curve.Curve(folder, self._first_step)
    self._scalars: dict[str, float] = {}
    self._scalars_step = 0
    self._last: Update | None = None
    self._refused_shown = 0
    self._status_at = self._reported_at = 0.0
    self.keeper: ThetaKeeper
    self.books: Callable[[], dict[str, Any]] = dict
    self.report: Callable[[], dict[str, Any]] = dict
    self.losses: Callable[[], Mapping[str, float]] = dict
    self.refused: Callable[[], int] = int
    self.before_update: Callable[[int], Any] = lambda unused_step: None

  @property
  def seconds(self) -> float:
    """Time of training over all sessions."""
    return self._seconds_before + time.monotonic() - self._began

  # What the library calls on its `checkpoints` module. It passes its own idea of the state, which
  # lacks what a resumed run needs; the keeper has all of it.

  def has_checkpoint(self, unused_folder: str, unused_prefix: str) -> bool:
    """Tells whether there is something to go on from."""
    return self._found is not None

  def restore_checkpoint(self, unused_folder: str, value: Any, unused_prefix: str) -> Any:
    """Returns the library's view of the checkpoint."""
    return self._library_view(value)

  def save_checkpoint(self, *unused: Any, **unused_options: Any) -> None:
    """Called twice before the first update. Raises where nothing can be written at all."""
    if self.saved_step == self.keeper.step == 0 and not (self.folder / "params").exists():
      self.save()

  def periodically_save_checkpoint(self, *unused: Any, **unused_options: Any) -> None:
    """Called before each update."""
    step = self.keeper.step
    if self.keeper.refused_in_a_row >= self._trainer.max_consecutive_nonfinite:
      raise UnsupRuleError(
        f"the update of theta was not finite {self.keeper.refused_in_a_row} times in a row; theta "
        f"of the last good one is in {self.folder}; lower the outer learning rate, or clip"
      )
    self.before_update(step)
    every = self._options.checkpoint_every_updates
    due = time.monotonic() - self._saved_at >= self._trainer.checkpoint_every_seconds
    if step != self.saved_step and (due or step - self.saved_step >= every):
      with self._tolerant():
        self.save()
    if time.monotonic() - self._status_at >= _STATUS_SECONDS:
      self.write_status("running")

  def load_state(self, path: str, value: Any) -> Any:
    """Loads the state of a member of the population."""
    state = checkpoint.read_state(path)
    self.keeper.restored(state["learner"], path)
    return self._library_view(value)

  # What the library calls on its event writer.

  def scalar(self, name: str, value: float, step: int) -> None:
    """Keeps a scalar for `flush`."""
    self._scalars[name.replace("||", "/")], self._scalars_step = float(value), int(step)

  def histogram(self, name: str, values: np.ndarray, step: int) -> None:
    """Keeps the mean: one number a worker, of which there may be hundreds."""
    if np.size(values):
      self.scalar(name, float(np.mean(values)), step)

  def text(self, *unused: Any, **unused_options: Any) -> None:
    """Leaves out descriptions of structures; `config.gin` says more."""

  def flush(self) -> None:
    """Writes the scalars of one update, and the state of the run beside them."""
    if time.monotonic() - self._reported_at >= _STATUS_SECONDS:
      self._reported_at = time.monotonic()
      self._scalars |= _scalars_of(self.report())
    with self._tolerant():
      self._events.scalars(self._scalars_step, self._scalars)
    self._scalars = {}

  # What our own learner calls.

  def updated(self, update: Update) -> None:
    """Writes a row of the curve."""
    self._last = update
    refused = self.refused()
    with self._tolerant():
      rows = self._rows or curve.Curve(self.folder, update.step - 1)
      self._rows = None  # A write that fails may leave it closed.
      rows.add(
        step=update.step,
        seconds=self.seconds,
        loss=update.loss,
        gradient_norm=update.gradient_norm,
        theta_mean_abs=trees.mean_abs(self.keeper.theta),
        dropped=refused - self._refused_shown,
        **{f"{curve.SOURCE_PREFIX}{name}": loss for name, loss in self.losses().items()},
      )
      self._rows = rows
    self._refused_shown = refused

  def state(self) -> dict[str, Any]:
    """Returns all that a resumed run needs."""
    return {
      "step": self.keeper.step,
      "seconds": self.seconds,
      "dropped": self.keeper.refused,
      "root_key": np.asarray(jax.random.PRNGKey(self._seed)),
      "learner": trees.to_leaves(self.keeper.state),
      "slots": {},  # Estimators are the workers' own.
      **self.books(),
    }

  def save(self) -> None:
    """Writes a checkpoint and `params`.

    Raises:
      UnsupRuleError: they cannot be written; those before them are intact.
    """
    keeper = self.keeper
    self._saved_at = time.monotonic()
    checkpoint.save_state(self.folder, keeper.step, self.state())
    checkpoint.save_params(self.folder, keeper.theta, keeper.step)
    self.saved_step, self.problem = keeper.step, ""

  def save_snapshot(self, generation: str) -> pathlib.Path | None:
    """Writes theta for an evaluation; returns the checkpoint's path, or None where it failed."""
    with self._tolerant():
      return checkpoint.save_state(
        self.folder / "snapshots" / generation, self.keeper.step, self.state(), _KEPT_SNAPSHOTS
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
        time.sleep(1.0)

  def write_status(self, state: str) -> None:
    """Writes `status.json`: `state` and the report."""
    self._status_at = time.monotonic()
    content = {"state": state, "time": time.time(), **self.report()}
    with self._tolerant():
      storage.write_text(self.folder / "status.json", json.dumps(content))

  def about(self) -> dict[str, Any]:
    """Returns what these files know, for the report."""
    return {
      "num_steps": self._num_steps,
      "seconds": self.seconds,
      "meta_loss": self._last.loss if self._last else None,
      "saved_step": self.saved_step,
      "refused_updates": self.keeper.refused,
      "problem": self.problem,
    }

  def close(self) -> None:
    """Closes the files."""
    with contextlib.suppress(OSError):
      self._events.close()
      if self._rows is not None:
        self._rows.close()

  def _library_view(self, value: Any) -> Any:
    return value.replace(gradient_learner_state=self.keeper.state, elapsed_time=self.seconds)

  @contextlib.contextmanager
  def _tolerant(self) -> Iterator[None]:
    """Goes on where a write fails."""
    try:
      yield
    except (OSError, UnsupRuleError) as error:
      if not self.problem:
        with contextlib.suppress(OSError):  # The log may be on that disk too.
          print(f"cannot write, going on: {error}", file=sys.stderr, flush=True)
      self.problem = str(error)


def _scalars_of(report: Mapping[str, Any]) -> dict[str, float]:
  """Returns what TensorBoard shows of a report."""
  values = {
    f"distributed/{name}": float(report[name])
    for name in (
      "gradients",
      "gradients_per_second",
      "staleness_mean",
      "staleness_max",
      "waiting",
      "learner_restarts",
    )
    if name in report
  }
  for reason, count in report.get("refused", {}).items():
    values[f"refused/{reason.replace(' ', '_')}"] = count
  for name, loss in report.get("losses", {}).items():
    values[f"meta_loss/{name}"] = loss
  for index, worker in report.get("workers", {}).items():
    values[f"workers/{index}/gradients_per_second"] = worker["gradients_per_second"]
    values[f"workers/{index}/restarts"] = worker["restarts"]
  return values
