"""The parts of an outer step, the same in local training and with many workers.

An estimator gives a gradient, or None where it is not finite; gradients are averaged; the library's
`GradientLearner` updates theta, which stays as it is where the result would not be finite.

On an accelerator theta, its moments and the keys stay on the processor, which a step reads the
accelerator from once an estimate: all that it found, in one transfer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule import locations
from unsup_rule.compat import library
from unsup_rule.machine import cores
from unsup_rule.meta import checkpoint, trees
from unsup_rule.meta.estimators import task_family
from unsup_rule.plugin.adam import average_of

# What a key is for; folded into the root key.
_THETA, ESTIMATORS, _STEPS = range(3)

Gradient = Mapping[str, Any]  # A tree like theta.


class Estimate(NamedTuple):
  """What an estimator found.

  Attributes:
    loss: mean meta-loss.
    gradient: of theta, arrays of numpy.
    unroll_state: of the inner problems after it.
    source_losses: meta-losses by the name of the data set, see `source_losses`.
  """

  loss: float
  gradient: Gradient
  unroll_state: Any
  source_losses: Mapping[str, list[float]]


def estimate(
  estimator: gradient_learner.GradientEstimator,
  weights: gradient_learner.WorkerWeights,
  key: jax.Array,
  unroll_state: Any,
) -> Estimate | None:
  """Runs one estimator; None where its loss or gradient is not finite."""
  output, _ = estimator.compute_gradient_estimate(weights, key, unroll_state, with_summary=False)
  loss, gradient, info = jax.device_get((output.mean_loss, output.grad, output.unroll_info))
  found = Estimate(
    float(loss),
    gradient,
    trees.strong(output.unroll_state),
    source_losses(task_family(estimator), info),
  )
  return found if trees.all_finite((found.loss, found.gradient)) else None


def mean(gradients: Sequence[Gradient]) -> Gradient:
  """The mean of gradients, taken one by one: a stack of them would double their memory."""

  def mean_leaf(*leaves: np.ndarray) -> np.ndarray:
    total = np.zeros(np.shape(leaves[0]), np.float64)
    for leaf in leaves:
      total += leaf
    return (total / len(leaves)).astype(np.asarray(leaves[0]).dtype)

  return jax.tree.map(mean_leaf, *gradients)


def update(
  learner: gradient_learner.GradientLearner,
  state: gradient_learner.GradientLearnerState,
  gradient: Gradient,
  loss: float,
  key: jax.Array,
) -> gradient_learner.GradientLearnerState | None:
  """The learner's state after a step along `gradient`; None where it would not be finite."""
  aggregated = library.make(
    gradient_learner.AggregatedGradient,
    theta_grads=gradient,
    theta_model_state=learner.get_state_for_worker(state).theta_model_state,
    mean_loss=np.float32(loss),
  )
  with cores.on_host():
    new_state, _ = learner.update(state, [aggregated], with_metrics=False, key=key)
  return new_state if trees.all_finite(new_state) else None


def result(
  learner: gradient_learner.GradientLearner, state: gradient_learner.GradientLearnerState
) -> lopt_base.MetaParams:
  """What a run is measured by and leaves: the average of theta, or theta if none is kept."""
  average = average_of(state)
  return library.meta_params(learner, state) if average is None else average


def family_name(estimator: gradient_learner.GradientEstimator) -> str:
  """Returns the name of the task family."""
  family = task_family(estimator)
  return type(estimator).__name__ if family is None else family.name


def source_losses(
  family: object, info: gradient_learner.UnrollInfo | None
) -> dict[str, list[float]]:
  """Meta-losses of an estimate's steps by data set, where the task family names data sets.

  Steps in which a task began anew are left out.
  """
  names = getattr(family, "source_names", ())
  if not names or info is None:
    return {}
  params: Any = info.task_param
  loss, source, alive = (
    np.asarray(leaf).ravel() for leaf in (info.loss, params.source, info.iteration > 0)
  )
  found: dict[str, list[float]] = {}
  for index, name in enumerate(names):
    values = loss[alive & (source == index)]
    if len(values):
      found.setdefault(name, []).extend(values.tolist())
  return found


def initial_learner_state(
  lopt: lopt_base.LearnedOptimizer, learner: gradient_learner.GradientLearner, seed: int
) -> gradient_learner.GradientLearnerState:
  """Returns the learner's state that a run with this seed starts from.

  Raises:
    UnsupRuleError: theta is to come from a file, and does not fit.
  """
  key = jax.random.fold_in(jax.random.PRNGKey(seed), _THETA)
  path = getattr(learner, "_init_theta_from_path", None)
  if path:
    path = learner._init_theta_from_path = str(locations.expanded(path))
    # The library takes what it finds there without a look at shapes; this one checks.
    checkpoint.load_theta(path, lopt.init(key))
  with cores.on_host():
    return trees.strong(jax.jit(learner.init)(key))


def key_of_update(seed: int, step: int) -> jax.Array:
  """Returns the key of the update after `step` others."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(seed), _STEPS), step)


def worker_key(seed: int, worker: int, restart: int = 0) -> jax.Array:
  """The key that all randomness of one worker follows from: its task families, tasks and batches.

  Args:
    seed: of the whole run.
    worker: index of the worker; streams of different workers are independent.
    restart: how often the worker was started anew. It goes on with other tasks then, where the
      same ones again would count them twice.
  """
  return jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(seed), worker), restart)
