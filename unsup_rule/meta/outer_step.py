"""The state of a meta-training run: starts, steps, and goes to and from a checkpoint exactly.

Every random choice follows from the root key and the number of the outer step, so these two stand
for all random streams, and a resumed run repeats bit for bit what one without a break does.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, library, trees
from unsup_rule.meta.estimators import task_family

# What a key is for; folded into the root key.
_THETA, _ESTIMATORS, _STEPS = range(3)


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where an estimator comes from: number `index` of `number` sampled with `key`."""

  key: jax.Array
  number: int
  index: int


@dataclasses.dataclass
class Slot:
  """One of the estimators whose gradients a step averages, and its inner problems' state."""

  origin: Origin
  estimator: gradient_learner.GradientEstimator
  unroll_state: Any
  bad_in_a_row: int = 0

  @property
  def family(self) -> Any:
    """The task family that the estimator works on, or None."""
    return task_family(self.estimator)

  @property
  def family_name(self) -> str:
    """Its name."""
    return family_name(self.estimator)


def family_name(estimator: gradient_learner.GradientEstimator) -> str:
  """Returns the name of the task family."""
  family = task_family(estimator)
  return type(estimator).__name__ if family is None else family.name


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


class _Estimate(NamedTuple):
  loss: float
  gradient: Any
  unroll_state: Any
  source_losses: Mapping[str, list[float]]


def _mean(estimates: Sequence[_Estimate]) -> tuple[Any, float]:
  """Returns the mean gradient and the mean loss."""
  gradient = jax.tree_util.tree_map(
    lambda *leaves: np.mean(np.stack(leaves), axis=0),
    *[estimate.gradient for estimate in estimates],
  )
  return gradient, float(np.mean([estimate.loss for estimate in estimates]))


def source_losses(family: Any, info: Any) -> dict[str, list[float]]:
  """Meta-losses of an estimate's steps by data set, where the task family names data sets.

  Steps in which a task began anew are left out.
  """
  names = getattr(family, "source_names", ())
  if not names or info is None:
    return {}
  loss, source, alive = (
    np.asarray(leaf).ravel() for leaf in (info.loss, info.task_param.source, info.iteration > 0)
  )
  found: dict[str, list[float]] = {}
  for index, name in enumerate(names):
    values = loss[alive & (source == index)]
    if len(values):
      found.setdefault(name, []).extend(values.tolist())
  return found


def initial_learner_state(
  lopt: lopt_base.LearnedOptimizer, learner: gradient_learner.GradientLearner, seed: int
) -> Any:
  """Returns the learner's state that a run with this seed starts from.

  Raises:
    UnsupRuleError: theta is to come from a file, and does not fit.
  """
  key = jax.random.fold_in(jax.random.PRNGKey(seed), _THETA)
  path = getattr(learner, "_init_theta_from_path", None)
  if path:
    # The library takes what it finds there without a look at shapes; this one checks.
    checkpoint.load_theta(path, lopt.init(key))
  return trees.strong(jax.jit(learner.init)(key))


def key_of_update(seed: int, step: int) -> jax.Array:
  """Returns the key of the update after `step` others."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(seed), _STEPS), step)


def _means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
  return {name: float(np.mean(values)) for name, values in groups.items()}


class MetaTrainingRun:
  """Meta-trains the theta of a learned optimizer with the library's estimators and learner.

  Attributes:
    step: outer steps done, those with dropped gradients included.
    dropped: meta-gradients dropped since the start because they were not finite.
    learner_state: theta and the state of its optimizer.
    slots: the estimators and their states.
  """

  def __init__(
    self,
    lopt: lopt_base.LearnedOptimizer,
    learner: gradient_learner.GradientLearner,
    sample_estimators: library.SampleEstimators,
    num_estimators: int,
    resample_frequency: int,
    seed: int,
  ):
    """Prepares a run; `start` or `restore` makes it ready.

    Args:
      lopt: the optimizer to meta-train.
      learner: holds theta and updates it.
      sample_estimators: makes gradient estimators from a key.
      num_estimators: estimators whose gradients are averaged in a step.
      resample_frequency: after each step an estimator is replaced with probability one over this;
        0 for never.
      seed: of the whole run.
    """
    self._lopt = lopt
    self._learner = learner
    self._sample = sample_estimators
    self._num_estimators = num_estimators
    self._resample_frequency = resample_frequency
    self._seed = seed
    self._root_key = jax.random.PRNGKey(seed)
    self.step = 0
    self.dropped = 0
    self.learner_state: Any = None
    self.slots: list[Slot] = []

  @property
  def theta(self) -> lopt_base.MetaParams:
    """The current theta."""
    return library.meta_params(self._learner, self.learner_state)

  def initial_theta(self) -> lopt_base.MetaParams:
    """The theta that training started from, made anew."""
    return library.meta_params(self._learner, self._initial_learner_state())

  def start(self) -> None:
    """Initialises theta, the estimators and their inner problems."""
    self.learner_state = self._initial_learner_state()
    key = jax.random.fold_in(self._root_key, _ESTIMATORS)
    estimators = self._sample(self._lopt, key, self._num_estimators)
    weights = self._learner.get_state_for_worker(self.learner_state)
    self.slots = [
      Slot(
        Origin(key, self._num_estimators, index),
        estimator,
        self._new_problems(estimator, weights, jax.random.fold_in(key, index)),
      )
      for index, estimator in enumerate(estimators)
    ]

  def advance(self) -> StepReport:
    """Takes one outer step: estimates, average, update of theta, and now and then new estimators.

    A gradient that is not finite is dropped, and its inner problems start anew. The step counts
    even where every gradient is dropped and theta stays.
    """
    key = key_of_update(self._seed, self.step)
    estimate_key, update_key, reset_key, resample_key = jax.random.split(key, 4)
    weights = self._learner.get_state_for_worker(self.learner_state)
    estimates = [
      self._estimate(slot, weights, jax.random.fold_in(estimate_key, index))
      for index, slot in enumerate(self.slots)
    ]
    used = [estimate for estimate in estimates if estimate is not None]
    gradient, loss = _mean(used) if used else (None, np.nan)
    updated = gradient is not None and self._update(weights, gradient, loss, update_key)
    weights = self._learner.get_state_for_worker(self.learner_state)
    family_losses: dict[str, list[float]] = {}
    source_losses: dict[str, list[float]] = {}
    for index, (slot, estimate) in enumerate(zip(self.slots, estimates, strict=True)):
      if estimate is None:
        # These inner problems may stay bad for ever, so they are not gone on with.
        slot.unroll_state = self._new_problems(
          slot.estimator, weights, jax.random.fold_in(reset_key, index)
        )
      else:
        slot.unroll_state = estimate.unroll_state
        family_losses.setdefault(slot.family_name, []).append(estimate.loss)
        for name, losses in estimate.source_losses.items():
          source_losses.setdefault(name, []).extend(losses)
      slot.bad_in_a_row = 0 if estimate is not None and updated else slot.bad_in_a_row + 1
    dropped = sum(slot.bad_in_a_row > 0 for slot in self.slots)
    self.dropped += dropped
    self._resample(weights, resample_key)
    self.step += 1
    return StepReport(
      loss,
      trees.norm(gradient) if used else np.nan,
      _means(family_losses),
      _means(source_losses),
      dropped,
    )

  def to_state(self) -> dict[str, Any]:
    """Returns all that `restore` needs, as dictionaries of numpy arrays, numbers and strings."""
    return {
      "step": self.step,
      "dropped": self.dropped,
      "root_key": np.asarray(self._root_key),
      "learner": trees.to_leaves(self.learner_state),
      "slots": {
        str(index): {
          "key": np.asarray(slot.origin.key),
          "number": slot.origin.number,
          "index": slot.origin.index,
          "bad_in_a_row": slot.bad_in_a_row,
          "unroll": trees.to_leaves(slot.unroll_state),
        }
        for index, slot in enumerate(self.slots)
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
    if not np.array_equal(state["root_key"], np.asarray(self._root_key)):
      raise UnsupRuleError(
        f"{where} was not made with trainer.seed = {self._seed}; set the "
        "seed of that run, or choose another --train_log_dir"
      )
    if len(state["slots"]) != self._num_estimators:
      raise UnsupRuleError(
        f"{where} has {len(state['slots'])} estimators, run_train."
        f"num_estimators is {self._num_estimators}; set it as it was, or choose "
        "another --train_log_dir"
      )
    self.step, self.dropped = int(state["step"]), int(state["dropped"])
    self.learner_state = trees.from_leaves(
      state["learner"], self._initial_learner_state(), f"outer learner in {where}"
    )
    weights = self._learner.get_state_for_worker(self.learner_state)
    sampled: dict[tuple, Any] = {}
    self.slots = []
    for index in range(self._num_estimators):
      saved = state["slots"][str(index)]
      origin = Origin(jax.numpy.asarray(saved["key"]), int(saved["number"]), int(saved["index"]))
      # Estimators that were sampled together are sampled together again, and once.
      together = (saved["key"].tobytes(), origin.number)
      if together not in sampled:
        sampled[together] = self._sample(self._lopt, origin.key, origin.number)
      estimator = sampled[together][origin.index]
      like = jax.eval_shape(estimator.init_worker_state, weights, origin.key)
      unroll_state = trees.from_leaves(
        saved["unroll"], like, f"estimator {index} ({type(estimator).__name__}) in {where}"
      )
      self.slots.append(Slot(origin, estimator, unroll_state, int(saved["bad_in_a_row"])))

  def _initial_learner_state(self) -> Any:
    return initial_learner_state(self._lopt, self._learner, self._seed)

  def _new_problems(self, estimator: Any, weights: Any, key: jax.Array) -> Any:
    return trees.strong(estimator.init_worker_state(weights, key))

  def _estimate(self, slot: Slot, weights: Any, key: jax.Array) -> _Estimate | None:
    """Runs one estimator; None where its loss or gradient is not finite."""
    output, _ = slot.estimator.compute_gradient_estimate(
      weights, key, slot.unroll_state, with_summary=False
    )
    gradient = jax.tree_util.tree_map(np.asarray, output.grad)
    estimate = _Estimate(
      float(output.mean_loss),
      gradient,
      trees.strong(output.unroll_state),
      source_losses(slot.family, output.unroll_info),
    )
    return estimate if trees.all_finite((estimate.loss, gradient)) else None

  def _update(self, weights: Any, gradient: Any, loss: float, key: jax.Array) -> bool:
    """Updates theta; False, and nothing changed, where the result would not be finite."""
    make: Any = gradient_learner.AggregatedGradient  # A flax dataclass, opaque to type checkers.
    aggregated = make(
      theta_grads=gradient,
      theta_model_state=weights.theta_model_state,
      mean_loss=np.float32(loss),
    )
    state, _ = self._learner.update(self.learner_state, [aggregated], with_metrics=False, key=key)
    if not trees.all_finite(state):
      return False
    self.learner_state = state
    return True

  def _resample(self, weights: Any, key: jax.Array) -> None:
    """Replaces each estimator by a new one with the chance that the frequency gives."""
    if self._resample_frequency <= 0:
      return
    chances = np.asarray(jax.random.uniform(key, (len(self.slots),)))
    for index in np.flatnonzero(chances < 1 / self._resample_frequency):
      sample_key, state_key = jax.random.split(jax.random.fold_in(key, int(index)))
      (estimator,) = self._sample(self._lopt, sample_key, 1)
      self.slots[index] = Slot(
        Origin(sample_key, 1, 0),
        estimator,
        self._new_problems(estimator, weights, state_key),
        self.slots[index].bad_in_a_row,
      )
