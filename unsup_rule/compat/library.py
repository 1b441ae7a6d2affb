"""What learned_optimization 0.0.1 and HEAD name or arrange differently, behind one interface."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gin
import jax
from learned_optimization import outer_train
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner as library_learner

from unsup_rule import compat

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
