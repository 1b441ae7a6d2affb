"""The library's `AsyncLearner`, made safe: it bounds, refuses, counts, and waits with deadlines."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from learned_optimization import distributed
from learned_optimization.outer_train import DataForWorker, GradientsFromWorker

from unsup_rule.distributed import actors, identity
from unsup_rule.distributed.statistics import Report, RestartCounts, WorkerStatistics
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import trees
from unsup_rule.meta.options import DistributedOptions

_LEAST_BUFFER = 64
_WAKE_SECONDS = 0.5


class StopRequested(Exception):
  """Somebody asked the learner to stop."""


@dataclasses.dataclass(frozen=True)
class Contribution:
  """What a worker sends with an exchange.

  Attributes:
    number: counts the worker's contributions; the same for a repeated call.
    learner_restart: the restart count of the learner whose theta was used.
    step: number of updates of that theta.
    gradient: the mean over the worker's estimators, or None where it was not finite.
    losses: meta-losses by data set, or by task family where that has no data sets.
  """

  number: int
  learner_restart: int
  step: int
  gradient: GradientsFromWorker | None
  losses: Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a worker gets: the newest theta, as packed `DataForWorker`, and what it is."""

  learner_restart: int
  step: int
  weights: bytes


class GradientServer(distributed.AsyncLearner):
  """Gives theta to workers, and their gradients in batches to the learner's loop.

  One call of a worker both delivers a gradient and fetches the next theta.
  """

  def __init__(
    self,
    weights: DataForWorker,
    step: int,
    batch_size: int,
    staleness: int,
    options: DistributedOptions,
    statistics: WorkerStatistics,
    restarts: RestartCounts,
    versions: Mapping[str, str],
    n_workers: int,
  ):
    """Makes a server.

    Args:
      weights: theta to begin with.
      step: its number of updates.
      batch_size: gradients of an update.
      staleness: how many updates older than the newest theta a gradient may be.
      options: deadlines and the size of the buffer.
      statistics: counts all that comes.
      restarts: numbers the starts of processes; this learner's own is drawn here.
      versions: what workers must agree to.
      n_workers: for messages.
    """
    super().__init__(
      experiment_name="",  # Of the library's own RPC server, which does not run.
      weights=weights,
      current_iteration=step,
      batch_size=batch_size,
      staleness=staleness,
      buffer_size=max(_LEAST_BUFFER, options.buffer_batches * batch_size),
      start_server=False,
    )
    self.options, self.statistics = options, statistics
    self._restarts, self._first_step = restarts, step
    self._versions, self._n_workers = versions, n_workers
    self.restart = restarts.next("learner")
    self.last_staleness = (0.0, 0)
    self.generation = weights.gen_id
    self._packed_weights: bytes | None = None
    self._stop = threading.Event()
    self._closed = False
    self._report: Callable[[], Report] = dict

  @property
  def bindings(self) -> Sequence[str]:
    """The gin bindings of the current member of a population."""
    return self._weights.outer_cfg or ()

  def report_with(self, report: Callable[[], Report]) -> None:
    """Has `report` add to what the call of this name returns."""
    self._report = report

  def join(self, worker: int, versions: Mapping[str, str], about: Mapping[str, object]) -> int:
    """Takes a worker's process in; returns its restart count, or -1 where the run has ended.

    Raises:
      UnsupRuleError: it differs from the learner's in version or configuration.
    """
    identity.check(worker, versions, self._versions)
    with self._cv:
      if self._closed:
        return -1
      restart = self._restarts.next(f"worker {worker}")
      self.statistics.joined(worker, restart, about)
      return restart

  def exchange(
    self,
    worker: int,
    restart: int,
    contribution: Contribution | None = None,
    about: Mapping[str, object] | None = None,
  ) -> Reply | None:
    """Takes a gradient, if there is one, and returns theta.

    None if there is no more to do: the run has ended, or another process took the worker's place.
    """
    with self._cv:
      if self._closed:
        return None
      if restart < self._restarts.current(f"worker {worker}"):
        self.statistics.refuse("superseded", number=int(contribution is not None))
        return None
      if about is not None:
        self.statistics.joined(worker, restart, about)
      self.statistics.seen(worker)
      if contribution is not None:
        self._take(worker, restart, contribution)
      if self._packed_weights is None:
        self._packed_weights = actors.packed(self._weights)
      return Reply(self.restart, int(self._current_iteration), self._packed_weights)

  def put_grads(self, worker_id: int, step: int, value: GradientsFromWorker) -> None:
    """Takes a gradient of the present theta or an earlier one of this process."""
    with self._cv:
      self._admit(worker_id, self.restart, step, value)

  def gather_grads(self) -> tuple[Sequence[int], Sequence[GradientsFromWorker]]:
    """Waits for a batch of gradients that are not too stale.

    Raises:
      StopRequested: somebody called `stop`.
      UnsupRuleError: no worker sent anything for the deadline; says which are quiet.
    """
    with self._cv:
      heard, accepted = time.monotonic(), self.statistics.accepted
      while True:
        self.raise_if_stopped()
        if len(self._outer_gradients) >= self._batch_size:
          break
        if self.statistics.accepted != accepted:
          heard, accepted = time.monotonic(), self.statistics.accepted
        if time.monotonic() - heard > self.options.gradient_deadline_seconds:
          raise UnsupRuleError(
            f"no gradient for {self.options.gradient_deadline_seconds:g} s; silent workers: "
            f"{self.statistics.quiet(self._n_workers)}; see their logs, or raise "
            "distributed.gradient_deadline_seconds if they still compile"
          )
        self._cv.wait(_WAKE_SECONDS)
      batch = self._outer_gradients[: self._batch_size]
      self._outer_gradients = self._outer_gradients[self._batch_size :]
      steps, values = zip(*batch, strict=True)
      ages = int(self._current_iteration) - np.asarray(steps)
      self.last_staleness = float(ages.mean()), int(ages.max())
    return steps, values

  def set_weights(
    self, current_iteration: int, weights: DataForWorker, clear_buffer: bool = False
  ) -> int:
    """Publishes theta; returns how many waiting gradients are too stale for it."""
    with self._cv:
      self._weights, self._current_iteration = weights, np.asarray(current_iteration)
      self._packed_weights = None
      if weights.gen_id != self.generation:
        # Another member's theta: the numbers of its updates mean something else.
        self.generation, self._first_step = weights.gen_id, int(current_iteration)
      before = self._outer_gradients
      self._outer_gradients = (
        [] if clear_buffer else [pair for pair in before if self._is_step_valid(pair[0])]
      )
      removed = len(before) - len(self._outer_gradients)
      self._drop(removed, "lost theta" if clear_buffer else "stale")
      return removed

  def stop(self) -> None:
    """Asks the loop to save and end."""
    self._stop.set()

  def raise_if_stopped(self) -> None:
    """Raises StopRequested where somebody called `stop`."""
    if self._stop.is_set():
      raise StopRequested

  def close(self) -> None:
    """Tells each worker at its next call that there is no more to do."""
    with self._cv:
      self._closed = True

  def report(self) -> Report:
    """Returns the state of the run, for people."""
    with self._cv:
      mean, largest = self.last_staleness
      return {
        "step": int(self._current_iteration),
        "staleness_mean": mean,
        "staleness_max": largest,
        "staleness_bound": self._staleness,
        "batch_size": self._batch_size,
        "waiting": len(self._outer_gradients),
        "learner_restarts": self.restart,
        **self.statistics.report(),
        **self._report(),
      }

  def _take(self, worker: int, restart: int, sent: Contribution) -> None:
    if not self.statistics.is_new(worker, restart, sent.number):
      self.statistics.refuse("repeated", worker)
      return
    self.statistics.add_losses(sent.losses)
    if sent.gradient is None:
      self.statistics.refuse("not finite", worker)
    else:
      self._admit(worker, sent.learner_restart, sent.step, sent.gradient)

  def _admit(
    self, worker: int, learner_restart: int, step: int, value: GradientsFromWorker
  ) -> None:
    """Puts a gradient into the buffer, or counts why not."""
    # A learner that was killed may have taken the last updates along: gradients of their theta
    # belong to no theta of this run, though the numbers of the updates come up again.
    lost = learner_restart != self.restart and step > self._first_step
    if lost or step > self._current_iteration or value.gen_id != self.generation:
      reason = "lost theta"
    elif not self._is_step_valid(step):
      reason = "stale"
    elif not trees.all_finite(
      (value.outer_trainer_grads.theta_grads, value.outer_trainer_grads.mean_loss)
    ):
      reason = "not finite"
    elif len(self._outer_gradients) >= self._buffer_size:
      reason = "buffer full"
    else:
      self._outer_gradients.append((step, value))
      self.statistics.accept(worker)
      self._cv.notify_all()
      return
    self.statistics.refuse(reason, worker)

  def _drop(self, number: int, reason: str) -> None:
    """Counts gradients that left the buffer unused."""
    self.statistics.accepted -= number
    self.statistics.refuse(reason, number=number)
