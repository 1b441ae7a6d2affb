"""A worker: fetches theta, estimates meta-gradients with the library's estimators, sends them."""

import dataclasses
import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from learned_optimization.outer_train import DataForWorker, GradientsFromWorker
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.compat import library
from unsup_rule.distributed import actors, affinity, identity, process
from unsup_rule.distributed.server import Contribution, GradientServer, Reply
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import outer_step, settings, streams, trees
from unsup_rule.meta.estimators import task_family


class NoMoreWork(Exception):
  """The run has ended, or another process has taken this worker's place."""


class WorkerFailedError(Exception):
  """A gradient could not be computed."""


@dataclasses.dataclass(frozen=True)
class WorkerRole(process.RunRole):
  """Works for a learner until there is no more to do.

  Attributes:
    learner: name of the learner's actor.
    worker: index of this worker among the learner's.
    stream: index of its random stream, another one for each worker of a population.
  """

  learner: str
  worker: int
  stream: int

  def run(self, serve: actors.Serve) -> None:
    """Works.

    Raises:
      UnsupRuleError: the learner refuses this process, or does not answer.
      WorkerFailedError: a gradient could not be computed.
    """
    del serve
    core = affinity.pin_to_a_free_core()  # First, since XLA's threads follow it.
    found = self.set_up(f"worker_{self.worker}")
    print(f"worker {self.worker}: process {os.getpid()} on core {core}", flush=True)
    about = {"host": socket.gethostname(), "pid": os.getpid(), "core": core}
    learner = actors.Remote[GradientServer](self.learner, found.distributed.call_deadline_seconds)
    versions = identity.of_this_process(self.config_text)
    restart = learner.call(GradientServer.join, self.worker, versions, about)
    if restart < 0:
      return
    print(f"worker {self.worker}: start {restart}", flush=True)
    key = streams.worker_key(found.trainer.seed, self.stream, restart)
    try:
      work(LearnerLink(learner, self.worker, restart, about), found, key)
    except NoMoreWork:
      print(f"worker {self.worker}: no more work", flush=True)
    except UnsupRuleError:
      raise
    except Exception as error:
      raise WorkerFailedError(f"worker {self.worker}: {type(error).__name__}: {error}") from error


class LearnerLink:
  """Delivers gradients to the learner and fetches theta, both in one call.

  Attributes:
    worker: index of this worker.
    bad_estimates: since the last delivery, estimates that were not finite.
    losses: meta-losses since then, by data set or task family.
  """

  def __init__(
    self,
    learner: actors.Caller[GradientServer],
    worker: int,
    restart: int,
    about: Mapping[str, object],
  ):
    """Makes a link.

    Args:
      learner: calls the learner.
      worker: index of this worker.
      restart: how often it was started anew, as the learner counts.
      about: what to tell a learner that was started anew about this process.
    """
    self._learner, self.worker, self._restart, self._about = learner, worker, restart, about
    self._number = 0
    self._reply: Reply | None = None
    self.bad_estimates = 0
    self.losses: dict[str, list[float]] = {}

  def fetch(self) -> DataForWorker:
    """Returns the newest theta, after each delivery another one."""
    return pickle.loads(self._newest().weights)

  def deliver(self, gradient: GradientsFromWorker) -> None:
    """Sends a gradient of the theta fetched last, or word that an estimate was not finite."""
    used = self._newest()
    contribution = Contribution(
      number=self._number,
      learner_restart=used.learner_restart,
      step=used.step,
      gradient=None if self.bad_estimates else gradient,
      losses=self.losses,
    )
    reply = self._exchange(contribution)
    if reply.learner_restart != used.learner_restart:
      # The learner was started anew, and has yet to hear about this process.
      reply = self._exchange(None, self._about)
    self._reply = reply
    self._number += 1
    self.bad_estimates, self.losses = 0, {}

  def _newest(self) -> Reply:
    if self._reply is None:
      self._reply = self._exchange(None, self._about)
    return self._reply

  def _exchange(
    self, contribution: Contribution | None, about: Mapping[str, object] | None = None
  ) -> Reply:
    reply = self._learner.call(
      GradientServer.exchange, self.worker, self._restart, contribution, about
    )
    if reply is None:
      raise NoMoreWork
    return reply


def work(link: LearnerLink, found: settings.Settings, key: jax.Array) -> NoReturn:
  """Estimates gradients and delivers them.

  Args:
    link: to the learner.
    found: what gin says; a population's bindings change it.
    key: all random choices follow from it.

  Raises:
    NoMoreWork: the learner said so.
  """
  bindings: Sequence[str] | None = None
  inner: Estimators | None = None
  number = 0
  while True:
    data = link.fetch()
    weights = data.worker_weights
    assert weights is not None
    start_key, estimate_key, resample_key = jax.random.split(jax.random.fold_in(key, number), 3)
    if inner is None or data.outer_cfg != bindings:
      bindings = data.outer_cfg
      found = settings.changed(found, bindings) if bindings else found
      inner = Estimators(found, link, weights, start_key)
    gradient = inner.gradient(weights, estimate_key)
    link.deliver(
      library.make(
        GradientsFromWorker,
        outer_trainer_grads=gradient,
        worker_id=link.worker,
        total_inner_steps=0,
        metrics={},
        gen_id=data.gen_id,
      )
    )
    inner.resample(weights, resample_key)
    number += 1


class Estimators:
  """A worker's gradient estimators, with the state of their inner problems."""

  def __init__(
    self,
    found: settings.Settings,
    link: LearnerLink,
    weights: gradient_learner.WorkerWeights,
    key: jax.Array,
  ):
    """Samples `run_train.num_estimators` estimators; their losses go to `link`."""
    self._settings, self._link = found, link
    self._estimators = self._sample(key, found.run.num_estimators)
    self._states = [
      estimator.init_worker_state(weights, jax.random.fold_in(key, index))
      for index, estimator in enumerate(self._estimators)
    ]

  def gradient(
    self, weights: gradient_learner.WorkerWeights, key: jax.Array
  ) -> gradient_learner.AggregatedGradient:
    """Returns the mean gradient of one truncation of each."""
    # Estimates with summaries are other programs, which take as long again to compile.
    out = gradient_learner.gradient_worker_compute(
      weights, self._estimators, self._states, key, with_metrics=False
    )
    self._states = list(out.unroll_states)
    return out.to_put

  def resample(self, weights: gradient_learner.WorkerWeights, key: jax.Array) -> None:
    """Replaces each estimator with the chance that `run_train` gives."""
    frequency = self._settings.run.stochastic_resample_frequency
    if frequency <= 0:
      return
    chances = np.asarray(jax.random.uniform(key, (len(self._estimators),)))
    for index in np.flatnonzero(chances < 1 / frequency):
      sample_key, state_key = jax.random.split(jax.random.fold_in(key, int(index)))
      (estimator,) = self._sample(sample_key, 1)
      self._estimators[index] = estimator
      self._states[index] = estimator.init_worker_state(weights, state_key)

  def _sample(self, key: jax.Array, number: int) -> list[gradient_learner.GradientEstimator]:
    sampled = self._settings.sample_estimators(self._settings.run.lopt, key, number)
    return [WatchedEstimator(estimator, self._link) for estimator in sampled]


class WatchedEstimator(gradient_learner.GradientEstimator):
  """A gradient estimator of the library that tells a link of losses and of NaN.

  After an estimate that is not finite its inner problems start anew: they may stay bad for ever.
  The library alone would send zeros in its place.
  """

  def __init__(self, estimator: gradient_learner.GradientEstimator, link: LearnerLink):
    self._estimator, self._link = estimator, link
    self.task_family = task_family(estimator)

  def task_name(self) -> str:
    """The name of the task family."""
    return outer_step.family_name(self._estimator)

  def init_worker_state(self, worker_weights: Any, key: jax.Array) -> Any:
    """Inner problems, as the estimator begins them."""
    return self._estimator.init_worker_state(worker_weights, key)

  def compute_gradient_estimate(
    self,
    worker_weights: Any,
    key: jax.Array,
    state: Any,
    with_summary: bool = False,
    **options: Any,
  ) -> tuple[gradient_learner.GradientEstimatorOut, Mapping[str, jax.Array]]:
    """Estimates as the estimator does."""
    output, metrics = self._estimator.compute_gradient_estimate(
      worker_weights, key, state, with_summary=with_summary, **options
    )
    # Arrays of jax hold what the library adds up; these copies cost little beside an estimate.
    if trees.all_finite((output.mean_loss, output.grad)):
      by_source = outer_step.source_losses(self.task_family, output.unroll_info)
      whole = {self.task_name(): [float(output.mean_loss)]}
      for name, values in (by_source or whole).items():
        self._link.losses.setdefault(name, []).append(float(np.mean(values)))
    else:
      self._link.bad_estimates += 1
      output = library.make(
        type(output),
        mean_loss=output.mean_loss,
        grad=output.grad,
        unroll_state=self.init_worker_state(worker_weights, key),
        unroll_info=output.unroll_info,
      )
    return output, metrics
