"""A worker: fetches theta, estimates meta-gradients with the library's estimators, sends them."""

import collections
import dataclasses
import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

import jax
import numpy as np
from learned_optimization.outer_train import DataForWorker, GradientsFromWorker
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.compat import library
from unsup_rule.distributed import actors, affinity, identity, process
from unsup_rule.distributed.server import Contribution, GradientServer, Reply
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import outer_step, settings


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
    key = outer_step.worker_key(found.trainer.seed, self.stream, restart)
    try:
      work(LearnerLink(learner, self.worker, restart, about), found, key)
    except NoMoreWork:
      print(f"worker {self.worker}: no more work", flush=True)
    except UnsupRuleError:
      raise
    except Exception as error:
      raise WorkerFailedError(f"worker {self.worker}: {type(error).__name__}: {error}") from error


class LearnerLink:
  """Delivers gradients to the learner and fetches theta, both in one call."""

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
    self._learner, self._worker, self._restart, self._about = learner, worker, restart, about
    self._number = 0
    self._reply: Reply | None = None

  def fetch(self) -> DataForWorker:
    """Returns the newest theta, after each delivery another one."""
    return pickle.loads(self._newest().weights)

  def deliver(
    self,
    gradient: gradient_learner.AggregatedGradient | None,
    losses: Mapping[str, Sequence[float]],
    generation: str = "",
  ) -> None:
    """Sends a gradient of the theta fetched last.

    Args:
      gradient: the mean over the worker's estimators; None where it is not finite.
      losses: meta-losses by data set or task family.
      generation: of theta, in a population.
    """
    used = self._newest()
    sent = gradient and library.make(
      GradientsFromWorker,
      outer_trainer_grads=gradient,
      worker_id=self._worker,
      total_inner_steps=0,
      metrics={},
      gen_id=generation,
    )
    contribution = Contribution(self._number, used.learner_restart, used.step, sent, losses)
    reply = self._exchange(contribution)
    if reply.learner_restart != used.learner_restart:
      # The learner was started anew, and has yet to hear about this process.
      reply = self._exchange(None, self._about)
    self._reply = reply
    self._number += 1

  def _newest(self) -> Reply:
    if self._reply is None:
      self._reply = self._exchange(None, self._about)
    return self._reply

  def _exchange(
    self, contribution: Contribution | None, about: Mapping[str, object] | None = None
  ) -> Reply:
    reply = self._learner.call(
      GradientServer.exchange, self._worker, self._restart, contribution, about
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
      inner = Estimators(found, weights, start_key)
    gradient, losses = inner.estimate(weights, estimate_key)
    link.deliver(gradient, losses, data.gen_id)
    inner.resample(weights, resample_key)
    number += 1


class Estimators:
  """A worker's gradient estimators, with the state of their inner problems."""

  def __init__(
    self, found: settings.Settings, weights: gradient_learner.WorkerWeights, key: jax.Array
  ):
    """Samples `run_train.num_estimators` estimators."""
    self._run, self._sample = found.run, found.sample_estimators
    self._estimators = list(self._sample(found.run.lopt, key, found.run.num_estimators))
    self._states = [
      estimator.init_worker_state(weights, jax.random.fold_in(key, index))
      for index, estimator in enumerate(self._estimators)
    ]

  def estimate(
    self, weights: gradient_learner.WorkerWeights, key: jax.Array
  ) -> tuple[gradient_learner.AggregatedGradient | None, dict[str, list[float]]]:
    """Takes one truncation of each.

    Returns:
      The mean gradient, None where one was not finite; and meta-losses by data set, or by task
      family where that has no data sets.
    """
    estimates: list[outer_step.Estimate] = []
    losses: dict[str, list[float]] = collections.defaultdict(list)
    for index, estimator in enumerate(self._estimators):
      own_key = jax.random.fold_in(key, index)
      estimate = outer_step.estimate(estimator, weights, own_key, self._states[index])
      if estimate is None:
        # These inner problems may stay bad for ever, so they are not gone on with.
        self._states[index] = estimator.init_worker_state(weights, own_key)
        continue
      self._states[index] = estimate.unroll_state
      estimates.append(estimate)
      whole = {outer_step.family_name(estimator): [estimate.loss]}
      for name, values in (estimate.source_losses or whole).items():
        losses[name].append(float(np.mean(values)))
    if len(estimates) < len(self._estimators):
      return None, losses
    mean = library.make(
      gradient_learner.AggregatedGradient,
      theta_grads=outer_step.mean([estimate.gradient for estimate in estimates]),
      theta_model_state=weights.theta_model_state,
      mean_loss=np.float32(np.mean([estimate.loss for estimate in estimates])),
    )
    return mean, losses

  def resample(self, weights: gradient_learner.WorkerWeights, key: jax.Array) -> None:
    """Replaces each estimator with the chance that `run_train` gives."""
    frequency = self._run.stochastic_resample_frequency
    if frequency <= 0:
      return
    chances = np.asarray(jax.random.uniform(key, (len(self._estimators),)))
    for index in np.flatnonzero(chances < 1 / frequency):
      sample_key, state_key = jax.random.split(jax.random.fold_in(key, int(index)))
      (estimator,) = self._sample(self._run.lopt, sample_key, 1)
      self._estimators[index] = estimator
      self._states[index] = estimator.init_worker_state(weights, state_key)
