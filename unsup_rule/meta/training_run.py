"""The state of a meta-training run: starts, steps, and goes to and from a checkpoint exactly.

Every random choice follows from the root key and the number of the outer step, so these two stand
for all random streams, and a resumed run repeats bit for bit what one without a break does.
"""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import cores
from unsup_rule.meta import gin_files, outer_step, settings, trees
from unsup_rule.meta.ahead import CompiledAhead
from unsup_rule.meta.settings import Settings

# Draws that find the estimators to be compiled ahead: nearly all there are, if they are few.
_DRAWN_AHEAD = 32


@dataclasses.dataclass(frozen=True)
class EstimatorSeed:
  """Where an estimator comes from: number `index` of `number` sampled with `key`."""

  key: jax.Array
  number: int
  index: int


@dataclasses.dataclass
class EstimatorState:
  """One of the estimators whose gradients a step averages, and its inner problems' state.

  Attributes:
    seed: where the estimator comes from.
    estimator: of the library, or of `unsup_rule.meta.groups`.
    unroll_state: of the inner problems.
    begun_with: the key that they were begun with, while they are as they began; or None.
    bad_in_a_row: its last gradients that did not reach theta.
  """

  seed: EstimatorSeed
  estimator: gradient_learner.GradientEstimator
  unroll_state: Any
  begun_with: jax.Array | None = None
  bad_in_a_row: int = 0

  @property
  def family_name(self) -> str:
    """The name of the task family that the estimator works on."""
    return outer_step.family_name(self.estimator)


@dataclasses.dataclass(frozen=True)
class StepReport:
  """What one outer step did.

  Attributes:
    loss: mean meta-loss of the estimators with finite gradients; NaN where there is none.
    gradient_norm: Euclidean norm of the mean meta-gradient, before any clipping; or NaN.
    family_losses: mean meta-loss by the name of the task family.
    source_losses: mean meta-loss by the name of the data set, of those that came up.
    dropped: estimators whose gradient did not reach theta.
  """

  loss: float
  gradient_norm: float
  family_losses: Mapping[str, float]
  source_losses: Mapping[str, float]
  dropped: int


class MetaTrainingRun:
  """Meta-trains the theta of a learned optimizer with the library's estimators and learner.

  `start` or `restore` makes it ready.

  Attributes:
    step: outer steps done, those with dropped gradients included.
    dropped: meta-gradients dropped since the start because they were not finite.
    settings: those in force; a phase changes them, but not the outer optimizer.
    learner_state: theta and the state of its optimizer.
    estimators: the estimators and their states.
  """

  def __init__(self, settings: Settings):
    """Makes a run of `settings.run`, from the seed in `settings.trainer`."""
    self.settings = settings
    self._phases = dict(sorted(settings.trainer.phases.items()))
    self._phase = 0  # The step that the phase in force began with.
    self._ahead: CompiledAhead | None = None
    self._learner = settings.make_learner()
    self._seed = settings.trainer.seed
    with cores.on_host():
      self._root_key = jax.random.PRNGKey(self._seed)
    self.step = 0
    self.dropped = 0
    self.learner_state: Any = None
    self.estimators: list[EstimatorState] = []

  @property
  def lopt(self) -> lopt_base.LearnedOptimizer:
    """The optimizer whose theta is trained."""
    return self.settings.run.lopt

  @property
  def theta(self) -> lopt_base.MetaParams:
    """What the run has found so far, see `outer_step.result`."""
    return outer_step.result(self._learner, self.learner_state)

  @property
  def worst(self) -> EstimatorState:
    """The estimator with the most gradients in a row that did not reach theta."""
    return max(self.estimators, key=lambda one: one.bad_in_a_row)

  def initial_theta(self) -> lopt_base.MetaParams:
    """The theta that training started from, made anew."""
    return outer_step.result(self._learner, self._initial_learner_state())

  def start(self) -> None:
    """Initialises theta, the estimators and their inner problems."""
    self.learner_state = self._initial_learner_state()
    self._look_ahead()
    self._begin(jax.random.fold_in(self._root_key, outer_step.ESTIMATORS))

  def _begin(self, key: jax.Array) -> None:
    """Samples all estimators, and their inner problems."""
    number = self.settings.run.num_estimators
    self.estimators = [
      self._begun(EstimatorSeed(key, number, index), estimator, jax.random.fold_in(key, index))
      for index, estimator in enumerate(self._sample(key, number))
    ]

  def _begun(
    self,
    seed: EstimatorSeed,
    estimator: gradient_learner.GradientEstimator,
    key: jax.Array,
    bad_in_a_row: int = 0,
  ) -> EstimatorState:
    """An estimator with new inner problems."""
    problems = self._new_problems(estimator, key)
    return EstimatorState(seed, estimator, problems, key, bad_in_a_row)

  def _enter(self, phase: int) -> None:
    """Puts in force what the phases up to this one bind, as far as it is not yet."""
    new = [bindings for step, bindings in self._phases.items() if self._phase < step <= phase]
    if new:
      self.settings = settings.changed(self.settings, list(itertools.chain(*new)))
    self._phase = phase

  def _look_ahead(self) -> None:
    """Samples what later phases need, so that mistakes show now, and begins long compilations."""
    if jax.default_backend() != "cpu":
      self._ahead = CompiledAhead(self.weights())
      self._ahead.begin(self._sample(self._root_key, _DRAWN_AHEAD))
    bindings: list[str] = []
    for step, new in self._phases.items():
      bindings += new
      if step > self._phase:
        with gin_files.tried(bindings):
          estimators = self._sample(self._root_key, _DRAWN_AHEAD if self._ahead else 1)
        if self._ahead:
          self._ahead.begin(estimators)

  def advance(self) -> StepReport:
    """Takes one outer step: estimates, average, update of theta, and now and then new estimators.

    A gradient that is not finite is dropped, and its inner problems start anew. The step counts
    even where every gradient is dropped and theta stays.
    """
    with cores.on_host():
      key = outer_step.key_of_update(self._seed, self.step)
      estimate_key, update_key, reset_key, resample_key = jax.random.split(key, 4)
    if self.step in self._phases and self.step != self._phase:
      self._enter(self.step)
      self._begin(jax.random.fold_in(key, outer_step.ESTIMATORS))
    weights = self.weights()
    estimates = [
      outer_step.estimate(
        one.estimator, weights, jax.random.fold_in(estimate_key, index), one.unroll_state
      )
      for index, one in enumerate(self.estimators)
    ]
    used = [estimate for estimate in estimates if estimate is not None]
    loss, norm, updated = float("nan"), float("nan"), False
    if used:
      gradient = outer_step.mean([estimate.gradient for estimate in used])
      loss, norm = float(np.mean([estimate.loss for estimate in used])), trees.norm(gradient)
      updated = self._update(gradient, loss, update_key)
    self._take(estimates, updated, reset_key)
    dropped = sum(one.bad_in_a_row > 0 for one in self.estimators)
    self.dropped += dropped
    families, sources = self._losses_by_name(estimates)
    with cores.on_host():
      replaced = self._replaced(resample_key)
    self._resample(replaced)
    self.step += 1
    return StepReport(loss, norm, families, sources, dropped)

  def weights(self) -> gradient_learner.WorkerWeights:
    """Theta as estimators take it."""
    return self._learner.get_state_for_worker(self.learner_state)

  def to_state(self) -> dict[str, Any]:
    """Returns all that `restore` needs, as dictionaries of numpy arrays, numbers and strings."""
    return {
      "step": self.step,
      "dropped": self.dropped,
      "phase": self._phase,
      "root_key": np.asarray(self._root_key),
      "learner": trees.to_leaves(self.learner_state),
      "slots": {
        str(index): {
          "key": np.asarray(one.seed.key),
          "number": one.seed.number,
          "index": one.seed.index,
          "bad_in_a_row": one.bad_in_a_row,
          **_problems(one),
        }
        for index, one in enumerate(self.estimators)
      },
    }

  def restore(self, state: Mapping[str, Any], where: str) -> None:
    """Takes up the run that `to_state` described.

    Args:
      state: as `to_state` returned it.
      where: names the checkpoint in messages.

    Raises:
      UnsupRuleError: the checkpoint belongs to another configuration.
    """
    self.check(state, where)
    self.step, self.dropped = int(state["step"]), int(state["dropped"])
    with cores.on_host():
      self.learner_state = trees.from_leaves(
        state["learner"], self._initial_learner_state(), f"outer learner in {where}"
      )
    self._look_ahead()
    sampled: dict[tuple[bytes, int], Sequence[Any]] = {}
    self.estimators = []
    for index in range(len(state["slots"])):
      saved = state["slots"][str(index)]
      seed = EstimatorSeed(
        jax.numpy.asarray(saved["key"]), int(saved["number"]), int(saved["index"])
      )
      # Estimators that were sampled together are sampled together again, and once.
      together = (saved["key"].tobytes(), seed.number)
      if together not in sampled:
        sampled[together] = self._sample(seed.key, seed.number)
      estimator = sampled[together][seed.index]
      bad_in_a_row = int(saved["bad_in_a_row"])
      if "begun_with" in saved:
        key = jax.numpy.asarray(saved["begun_with"])
        self.estimators.append(self._begun(seed, estimator, key, bad_in_a_row))
        continue
      like = jax.eval_shape(estimator.init_worker_state, self.weights(), seed.key)
      name = getattr(estimator, "name", type(estimator).__name__)
      unroll_state = trees.from_leaves(
        saved["unroll"], like, f"estimator {index} ({name}) in {where}"
      )
      self.estimators.append(EstimatorState(seed, estimator, unroll_state, None, bad_in_a_row))

  def check(self, state: Mapping[str, Any], where: str) -> None:
    """Refuses what `restore` would, as far as that shows without restoring.

    Raises:
      UnsupRuleError: the checkpoint belongs to another configuration, or to `launch`.
    """
    self._enter(int(state.get("phase", 0)))
    self._check_fit(state, where)

  def _check_fit(self, state: Mapping[str, Any], where: str) -> None:
    if "worker_statistics" in state:
      raise UnsupRuleError(
        f"{where} is of a run of launch; go on with launch, or choose another --train_log_dir"
      )
    if not np.array_equal(state["root_key"], np.asarray(self._root_key)):
      raise UnsupRuleError(
        f"{where} was not made with trainer.seed = {self._seed}; set the "
        "seed of that run, or choose another --train_log_dir"
      )
    number = self.settings.run.num_estimators
    if len(state["slots"]) != number:
      raise UnsupRuleError(
        f"{where} has {len(state['slots'])} estimators, run_train."
        f"num_estimators is {number}; set it as it was, or choose "
        "another --train_log_dir"
      )

  def _initial_learner_state(self) -> gradient_learner.GradientLearnerState:
    return outer_step.initial_learner_state(self.lopt, self._learner, self._seed)

  def _sample(self, key: jax.Array, number: int) -> Sequence[gradient_learner.GradientEstimator]:
    return self.settings.sample_estimators(self.lopt, key, number)

  def _new_problems(
    self, estimator: gradient_learner.GradientEstimator, key: jax.Array
  ) -> gradient_learner.GradientEstimatorState:
    if self._ahead:
      self._ahead.wait(estimator)
    return trees.strong(estimator.init_worker_state(self.weights(), key))

  def _update(self, gradient: outer_step.Gradient, loss: float, key: jax.Array) -> bool:
    """Updates theta; False, and nothing changed, where the result would not be finite."""
    state = outer_step.update(self._learner, self.learner_state, gradient, loss, key)
    if state is not None:
      self.learner_state = state
    return state is not None

  def _take(
    self, estimates: Sequence[outer_step.Estimate | None], updated: bool, reset_key: jax.Array
  ) -> None:
    """Goes on with the inner problems where the estimates left them, or with new ones."""
    for index, (one, estimate) in enumerate(zip(self.estimators, estimates, strict=True)):
      if estimate is None:
        # These inner problems may stay bad for ever, so they are not gone on with.
        one.begun_with = jax.random.fold_in(reset_key, index)
        one.unroll_state = self._new_problems(one.estimator, one.begun_with)
      else:
        one.begun_with, one.unroll_state = None, estimate.unroll_state
      one.bad_in_a_row = 0 if estimate is not None and updated else one.bad_in_a_row + 1

  def _losses_by_name(
    self, estimates: Sequence[outer_step.Estimate | None]
  ) -> tuple[dict[str, float], dict[str, float]]:
    """Mean meta-losses by task family and by data set."""
    families: dict[str, list[float]] = collections.defaultdict(list)
    sources: dict[str, list[float]] = collections.defaultdict(list)
    for one, estimate in zip(self.estimators, estimates, strict=True):
      if estimate is not None:
        families[one.family_name].append(estimate.loss)
        for name, losses in estimate.source_losses.items():
          sources[name] += losses
    return _means(families), _means(sources)

  def _replaced(self, key: jax.Array) -> dict[int, tuple[jax.Array, jax.Array]]:
    """Which estimators are replaced, each with the chance that the frequency gives.

    Returns:
      By index, the keys of a new estimator and of its inner problems.
    """
    frequency = self.settings.run.stochastic_resample_frequency
    if frequency <= 0:
      return {}
    chances = np.asarray(jax.random.uniform(key, (len(self.estimators),)))
    replaced = map(int, np.flatnonzero(chances < 1 / frequency))
    return {index: tuple(jax.random.split(jax.random.fold_in(key, index))) for index in replaced}

  def _resample(self, replaced: Mapping[int, tuple[jax.Array, jax.Array]]) -> None:
    """Puts new estimators, sampled with these keys, in the places of old ones."""
    for index, (sample_key, state_key) in replaced.items():
      (estimator,) = self._sample(sample_key, 1)
      self.estimators[index] = self._begun(
        EstimatorSeed(sample_key, 1, 0),
        estimator,
        state_key,
        self.estimators[index].bad_in_a_row,
      )


def _problems(one: EstimatorState) -> dict[str, object]:
  """What the inner problems can be had back from: their state, or the key of new ones."""
  if one.begun_with is None:
    return {"unroll": trees.to_leaves(one.unroll_state)}
  return {"begun_with": np.asarray(one.begun_with)}


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
  return {name: float(np.mean(own)) for name, own in values.items()}
