"""The library's `AsyncLearner`, made safe: it bounds, refuses, counts, and never waits for ever."""

import dataclasses
import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from learned_optimization import distributed

from unsup_rule.distributed import courier, identity, library_loops
from unsup_rule.distributed.options import DistributedOptions
from unsup_rule.distributed.statistics import Incarnations, Ledger
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import trees

_LEAST_BUFFER = 64
_WAKE_SECONDS = 0.5


class StopRequested(Exception):
  """Somebody asked the learner to stop."""


@dataclasses.dataclass(frozen=True)
class Contribution:
  """What a worker sends with an exchange.

  Attributes:
    number: counts the worker's contributions; the same for a repeated call.
    epoch: the learner's incarnation whose theta was used.
    step: number of updates of that theta.
    gradient: the library's `GradientsFromWorker`, or None where it was not finite.
    losses: meta-losses by data set, or by task family where that has no data sets.
  """

  number: int
  epoch: int
  step: int
  gradient: Any
  losses: Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a worker gets: the newest theta, as pickled `DataForWorker`, and what it is."""

  epoch: int
  step: int
  weights: bytes


class GradientServer(distributed.AsyncLearner):
  """Serves theta to workers, and their gradients in batches to the library's loop.

  One call of a worker both delivers a gradient and fetches the next theta.
  """

  def __init__(
    self,
    name: str,
    options: DistributedOptions,
    ledger: Ledger,
    incarnations: Incarnations,
    first_step: int,
    versions: Mapping[str, str],
    n_workers: int,
    **loop: Any,
  ):
    """Makes a server; the loop starts it.

    Args:
      name: of the server, for workers.
      options: deadlines and the size of the buffer.
      ledger: counts all that comes.
      incarnations: hands out numbers to processes; this learner's own is drawn here.
      first_step: the update where this process goes on.
      versions: what workers must agree to.
      n_workers: for messages.
      **loop: what the library's loop passes to `AsyncLearner`: `weights`, `current_iteration`,
        `batch_size`, `staleness`.
    """
    buffer_size = max(_LEAST_BUFFER, options.buffer_batches * loop["batch_size"])
    kept = ("weights", "current_iteration", "batch_size", "staleness")
    super().__init__(
      experiment_name=name,
      buffer_size=buffer_size,
      start_server=False,
      **{key: loop[key] for key in kept},
    )
    self.options, self.ledger = options, ledger
    self._incarnations, self._first_step = incarnations, first_step
    self._versions, self._n_workers = versions, n_workers
    self.epoch = incarnations.next("learner")
    self.staleness_bound = self._staleness
    self.last_staleness = (0.0, 0)
    self.generation = self._weights.gen_id
    self._packed_weights: bytes | None = None
    self._stop = threading.Event()
    self._closed = False
    self._report: Callable[[], dict[str, Any]] = dict

  @property
  def outer_cfg(self) -> Any:
    """The bindings of the current member of a population."""
    return self._weights.outer_cfg

  def start_server(self) -> None:
    """Begins to answer workers."""
    if self._server is None:
      server = courier.Server(self._experiment_name)
      for handler in (self.join, self.exchange, self.report, self.stop):
        server.Bind(handler.__name__, handler)
      server.Bind("put_grads", self.put_grads)
      server.Bind("get_weights", self.get_weights)
      server.Start()
      self._server = server

  def report_with(self, report: Callable[[], dict[str, Any]]) -> None:
    """Has `report` add to what the call of this name returns."""
    self._report = report

  def join(self, worker: int, versions: Mapping[str, str], about: Mapping[str, Any]) -> int:
    """Takes a worker's process in; returns its incarnation, or -1 where the run has ended.

    Raises:
      UnsupRuleError: it differs from the learner's in version or configuration.
    """
    identity.check(worker, versions, self._versions)
    with self._cv:
      if self._closed:
        return -1
      incarnation = self._incarnations.next(f"worker {worker}")
      self.ledger.joined(worker, incarnation, about)
      return incarnation

  def exchange(
    self,
    worker: int,
    incarnation: int,
    contribution: Contribution | None = None,
    about: Mapping[str, Any] | None = None,
  ) -> Reply | None:
    """Takes a gradient, if there is one, and returns theta.

    None if there is no more to do: the run has ended, or another process took the worker's place.
    """
    with self._cv:
      if self._closed:
        return None
      if incarnation < self._incarnations.current(f"worker {worker}"):
        self.ledger.refuse("superseded", number=int(contribution is not None))
        return None
      if about is not None:
        self.ledger.joined(worker, incarnation, about)
      self.ledger.seen(worker)
      if contribution is not None:
        self._take(worker, incarnation, contribution)
      if self._packed_weights is None:
        self._packed_weights = pickle.dumps(
          jax.tree_util.tree_map(_plain, self._weights), pickle.HIGHEST_PROTOCOL
        )
      return Reply(self.epoch, int(self._current_iteration), self._packed_weights)

  def put_grads(self, worker_id: Any, step: int, value: Any) -> None:
    """Takes a gradient as the library's own workers send it."""
    with self._cv:
      self._admit(int(worker_id), self.epoch, int(step), value)

  def gather_grads(self, filter_fn: Callable[[Any], bool] = lambda value: True) -> Any:
    """Waits for a batch of gradients that are not too stale.

    Raises:
      StopRequested: somebody called `stop`.
      UnsupRuleError: no worker sent anything for the deadline; says which are quiet.
    """
    with self._cv:
      heard, accepted = time.monotonic(), self.ledger.accepted
      while True:
        self.raise_if_stopped()
        if len(self._outer_gradients) >= self._batch_size:
          valid = [pair for pair in self._outer_gradients if filter_fn(pair[1])]
          self._drop(len(self._outer_gradients) - len(valid), "lost theta")
          self._outer_gradients = valid
          if len(valid) >= self._batch_size:
            break
        if self.ledger.accepted != accepted:
          heard, accepted = time.monotonic(), self.ledger.accepted
        if time.monotonic() - heard > self.options.gradient_deadline_seconds:
          raise UnsupRuleError(
            f"no gradient for {self.options.gradient_deadline_seconds:g} s; silent workers: "
            f"{self.ledger.quiet(self._n_workers)}; see their logs, or raise "
            "distributed.gradient_deadline_seconds if they still compile"
          )
        self._cv.wait(_WAKE_SECONDS)
      batch = self._outer_gradients[: self._batch_size]
      n_waiting = len(self._outer_gradients)
      self._outer_gradients = self._outer_gradients[self._batch_size :]
      steps, values = zip(*batch, strict=True)
      ages = int(self._current_iteration) - np.asarray(steps)
      self.last_staleness = float(ages.mean()), int(ages.max())
    return library_loops.gathered(steps, values, n_waiting)

  def set_weights(self, current_iteration: int, weights: Any, clear_buffer: bool = False) -> int:
    """Publishes theta; returns how many waiting gradients are too stale for it."""
    with self._cv:
      self._weights, self._current_iteration = weights, np.asarray(current_iteration)
      self._packed_weights = None
      if weights.gen_id != self.generation:
        # Another member's theta: the numbers of its updates mean something else.
        self.generation, self._first_step = weights.gen_id, int(current_iteration)
      before = self._outer_gradients
      # Under other reasons than staleness, they are counted in `gather_grads` or here.
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
    """Sends workers home, as they come."""
    with self._cv:
      self._closed = True

  def report(self) -> dict[str, Any]:
    """Returns the state of the run, for people."""
    with self._cv:
      mean, largest = self.last_staleness
      return {
        "step": int(self._current_iteration),
        "staleness_mean": mean,
        "staleness_max": largest,
        "staleness_bound": self.staleness_bound,
        "batch_size": self._batch_size,
        "waiting": len(self._outer_gradients),
        "learner_restarts": self.epoch,
        **self.ledger.report(),
        **self._report(),
      }

  def _take(self, worker: int, incarnation: int, sent: Contribution) -> None:
    if not self.ledger.is_new(worker, incarnation, sent.number):
      self.ledger.refuse("repeated", worker)
      return
    self.ledger.add_losses(sent.losses)
    if sent.gradient is None:
      self.ledger.refuse("not finite", worker)
    else:
      self._admit(worker, sent.epoch, sent.step, sent.gradient)

  def _admit(self, worker: int, epoch: int, step: int, value: Any) -> None:
    """Puts a gradient into the buffer, or counts why not."""
    # A learner that was killed may have taken the last updates along: gradients of their theta
    # belong to no theta of this run, though the numbers of the updates come up again.
    lost = epoch != self.epoch and step > self._first_step
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
      self.ledger.accept(worker)
      self._cv.notify_all()
      return
    self.ledger.refuse(reason, worker)

  def _drop(self, number: int, reason: str) -> None:
    """Counts gradients that left the buffer unused."""
    self.ledger.accepted -= number
    self.ledger.refuse(reason, number=number)


def _plain(leaf: Any) -> Any:
  return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
