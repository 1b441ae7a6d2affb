"""What learned_optimization 0.0.1 and HEAD name or arrange differently, behind one interface."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gin
import jax
from learned_optimization import outer_train, training
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import common
from learned_optimization.outer_trainers import gradient_learner as library_learner

from unsup_rule import compat

if compat.IS_HEAD:
  from learned_optimization.outer_trainers import (
    lopt_truncated_step,  # pyright: ignore[reportAttributeAccessIssue]
  )

Made = TypeVar("Made")
Estimators = Sequence[library_learner.GradientEstimator]


def make(kind: Callable[..., Made], **fields: object) -> Made:
  """Returns one of the library's flax dataclasses, whose fields no type checker sees."""
  return kind(**fields)


def make_learner(lopt: lopt_base.LearnedOptimizer) -> library_learner.GradientLearner:
  """The learner bound to `run_train`, or else a `GradientLearner` of gin's with theta of `lopt`."""
  bound = gin.get_bindings("run_train")
  if compat.IS_HEAD and "outer_learner_fn" in bound:
    return bound["outer_learner_fn"]()
  if "outer_learner" in bound:
    return bound["outer_learner"]
  name = "meta_init" if compat.IS_HEAD else "lopt"
  given = gin.get_bindings("GradientLearner", resolve_references=False)
  return gin.get_configurable("GradientLearner")(**({} if name in given else {name: lopt}))


def meta_params(
  learner: library_learner.GradientLearner, state: library_learner.GradientLearnerState
) -> lopt_base.MetaParams:
  """Theta, in the state of `learner`."""
  name = "get_meta_params" if compat.IS_HEAD else "get_lopt_params"
  return getattr(learner, name)(state)


def sample_estimators(lopt: lopt_base.LearnedOptimizer, key: jax.Array, number: int) -> Estimators:
  """Makes gradient estimators with the library's `build_gradient_estimators`, as gin says."""
  sample: Callable[..., Estimators] = outer_train.build_gradient_estimators
  head_only: dict[str, Any] = {}
  if compat.IS_HEAD:
    sample = gin.get_bindings("run_train").get("sample_estimator_fn", sample)
    head_only["worker_id"] = 0
    bound = gin.get_bindings("build_gradient_estimators")
    make = bound.get("gradient_estimator_fn")
    if (
      getattr(make, "__module__", "").startswith("unsup_rule.") and "truncated_step_fn" not in bound
    ):
      # Ours takes the task family and the optimizer, as an estimator of 0.0.1 does.
      head_only["truncated_step_fn"] = lambda *family_and_optimizer: family_and_optimizer
  return sample(learned_opt=lopt, key=key, num_gradient_estimators=number, **head_only)


def stock_estimator(
  estimator: type,
  family: Any,
  lopt: Any,
  schedule: Any,
  num_tasks: int,
  offset: int,
  **options: Any,
) -> Any:
  """An estimator of the library whose meta-loss is taken on a second batch after each step."""
  common_options = {"random_initial_iteration_offset": offset}
  if compat.IS_HEAD:
    step = lopt_truncated_step.VectorizedLOptTruncatedStep(
      family, lopt, schedule, num_tasks, meta_loss_split="outer_valid", **common_options
    )
    return estimator(step, **options)
  return estimator(
    family, lopt, schedule, num_tasks, train_and_meta=True, **common_options, **options
  )


def step_of(estimator: Any) -> Any:
  """What has `task_family` and `num_tasks` of a stock estimator."""
  return getattr(estimator, "truncated_step", estimator)


def batches(estimator: Any, n_steps: int) -> Any:
  """Reads batches for so many inner steps; nothing where tasks draw their own."""
  if compat.IS_HEAD:
    return estimator.truncated_step.get_batch(n_steps)
  return training.get_batches(
    estimator.task_family, (n_steps, estimator.num_tasks), True, numpy=False
  )


def unroll(estimator: Any, n_steps: int) -> Callable[..., Any]:
  """The library's unroll: (theta, key, state, batches, outer state) -> (state, outs)."""
  if compat.IS_HEAD:
    static = (estimator.truncated_step, n_steps, False)
  else:
    e = estimator
    static = (e.task_family, e.learned_opt, e.trunc_sched, e.num_tasks, n_steps, True, False, False)
  return lambda *arguments: common.truncated_unroll(*static, *arguments, with_summary=False)[0]


def mean_loss(outs: Any) -> jax.Array:
  """The meta-loss of an unroll as `TruncatedGrad` takes it: HEAD leaves first steps out."""
  if compat.IS_HEAD:
    return ((outs.mask * outs.loss).sum(axis=0) / outs.mask.sum(axis=0)).mean()
  return outs.loss.mean()
