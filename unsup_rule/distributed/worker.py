"""A worker: fetches theta, estimates meta-gradients with the library's loop, sends them."""

import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unsup_rule.distributed import affinity, courier, identity, library_loops, logs
from unsup_rule.distributed.options import DistributedOptions
from unsup_rule.distributed.server import Contribution, Reply
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import compilation
from unsup_rule.meta import gin_files, library, outer_step, streams, trees
from unsup_rule.meta.estimators import task_family
from unsup_rule.meta.options import TrainerOptions


class NoMoreWork(Exception):
  """The run has ended, or another process has taken this worker's place."""


class WorkerFailedError(Exception):
  """A gradient could not be computed. No RuntimeError: the library retries those for ever."""


class LearnerClient:
  """Stands for the library's `DistributedWorker`: delivers and fetches in one call."""

  def __init__(self, server: str, worker: int, incarnation: int, about: Mapping[str, Any]):
    """Makes a client of the learner's server.

    Args:
      server: its name.
      worker: index of this worker.
      incarnation: number of this process, from the learner.
      about: what to tell a learner that was started anew about this process.
    """
    self._client = courier.Client(server, DistributedOptions().call_deadline_seconds)
    self._worker, self._incarnation, self._about = worker, incarnation, about
    self._number = 0
    self._reply: Reply | None = None
    self.bad_estimates = 0
    self.losses: dict[str, list[float]] = {}

  def get_weights(self) -> tuple[int, Any]:
    """Returns (number of updates, `DataForWorker`), the newest after each gradient."""
    if self._reply is None:
      self._exchange(None)
    assert self._reply is not None
    return self._reply.step, pickle.loads(self._reply.weights)

  def put_grads(self, step: int, gradient: Any) -> None:
    """Sends a gradient, or where an estimate was not finite, word of that."""
    assert self._reply is not None
    self._exchange(
      Contribution(
        number=self._number,
        epoch=self._reply.epoch,
        step=step,
        gradient=None if self.bad_estimates else gradient,
        losses=self.losses,
      )
    )
    self._number += 1
    self.bad_estimates, self.losses = 0, {}

  def _exchange(self, contribution: Contribution | None) -> None:
    new_learner = self._reply is None
    while True:
      reply = self._client.exchange(
        self._worker, self._incarnation, contribution, self._about if new_learner else None
      )
      if reply is None:
        raise NoMoreWork
      if new_learner or reply.epoch == self._reply.epoch:  # pyright: ignore[reportOptionalMemberAccess]
        break
      # The learner was started anew, and has yet to hear about this process.
      new_learner, contribution = True, None
    self._reply = reply


class WatchedEstimator:
  """A gradient estimator of the library that tells a client of losses and of NaN.

  After an estimate that is not finite its inner problems start anew: they may stay bad for ever.
  The library alone would send zeros in its place.
  """

  def __init__(self, estimator: Any, client: LearnerClient):
    self._estimator, self._client = estimator, client

  def __getattr__(self, name: str) -> Any:
    return getattr(self._estimator, name)

  def compute_gradient_estimate(
    self, worker_weights: Any, key: Any, state: Any, with_summary: bool = False, **options: Any
  ) -> tuple[Any, Any]:
    """Estimates as the estimator does."""
    output, metrics = self._estimator.compute_gradient_estimate(
      worker_weights, key, state, with_summary=with_summary, **options
    )
    # Arrays of jax hold what the library adds up; these copies cost little beside an estimate.
    if trees.all_finite((output.mean_loss, output.grad)):
      by_source = outer_step.source_losses(task_family(self._estimator), output.unroll_info)
      whole = {outer_step.family_name(self._estimator): [float(output.mean_loss)]}
      for name, values in (by_source or whole).items():
        self._client.losses.setdefault(name, []).append(float(np.mean(values)))
    else:
      self._client.bad_estimates += 1
      output = output.replace(unroll_state=self._estimator.init_worker_state(worker_weights, key))
    return output, metrics


def run_worker(
  config_text: str, imports: Sequence[str], folder: str, server: str, worker: int, stream: int
) -> None:
  """Works for a learner until the process is ended or replaced. One worker a process.

  Args:
    config_text: the gin configuration.
    imports: modules that it needs.
    folder: of the run, for the log.
    server: name of the learner's server.
    worker: index of this worker among the learner's.
    stream: index of its random stream, another one for each worker of a population.

  Raises:
    UnsupRuleError: the learner refuses this process, or does not answer.
    WorkerFailedError: a gradient could not be computed.
  """
  core = affinity.pin_to_a_free_core()  # First, since XLA's threads follow it.
  logs.redirect(folder, f"worker_{worker}")
  print(f"worker {worker}: process {os.getpid()} on core {core}", flush=True)
  compilation.cache_on_disk()
  gin_files.parse_text(config_text, imports)
  about = {"host": socket.gethostname(), "pid": os.getpid(), "core": core}
  options = DistributedOptions()
  incarnation = courier.Client(server, options.call_deadline_seconds).join(
    worker, identity.of_this_process(config_text), about
  )
  if incarnation < 0:
    return
  print(f"worker {worker}: start {incarnation}", flush=True)
  client = LearnerClient(server, worker, incarnation, about)
  seed = TrainerOptions().seed
  # For the one choice that the library makes with numpy: when to sample an estimator anew.
  np.random.seed(np.random.SeedSequence([seed, stream, incarnation]).generate_state(4))

  def train(sample_estimators: Any, **settings: Any) -> None:
    # Estimates with summaries are other programs, which take as long again to compile.
    settings["summary_every_n"] = 0

    def sample(learned_opt, key, num_gradient_estimators, **unused_worker):
      found = library.sample_estimators(
        learned_opt, key, num_gradient_estimators, sample_estimators
      )
      return [WatchedEstimator(estimator, client) for estimator in found]

    library_loops.train_worker(
      client, streams.worker_key(seed, stream, incarnation), worker, sample, **settings
    )

  try:
    library_loops.run_as_worker(train)
  except NoMoreWork:
    print(f"worker {worker}: no more work", flush=True)
  except UnsupRuleError:
    raise
  except Exception as error:
    raise WorkerFailedError(f"worker {worker}: {type(error).__name__}: {error}") from error
