"""The library's outer trainer behind one interface.

`gin_completion` gives the bindings whose names differ between the versions; with them,
`outer_train.run_train` starts from the same gin file in both. `running_trainer` lets it call
another single-process loop than the library's own, which does not resume.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import gin
import jax
from learned_optimization import outer_train
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.optimizers import base as opt_base
from learned_optimization.outer_trainers import gradient_learner as library_learner

from unsup_rule import compat
from unsup_rule.errors import UnsupRuleError

Made = TypeVar("Made")
# (learned_opt, key, number of estimators) -> that many gradient estimators.
SampleEstimators = Callable[
  [lopt_base.LearnedOptimizer, jax.Array, int], Sequence[library_learner.GradientEstimator]
]


def make(kind: Callable[..., Made], **fields: object) -> Made:
  """Returns one of the library's flax dataclasses, whose fields no type checker sees."""
  return kind(**fields)


def gradient_learner(
  learned_opt: lopt_base.LearnedOptimizer, theta_opt: opt_base.Optimizer, **options: Any
) -> library_learner.GradientLearner:
  """The library's `GradientLearner`, which holds theta and updates it with `theta_opt`."""
  return library_learner.GradientLearner(learned_opt, theta_opt, **options)


def meta_params(learner: library_learner.GradientLearner, state: Any) -> lopt_base.MetaParams:
  """Theta, in the state of `learner`."""
  name = "get_meta_params" if compat.IS_HEAD else "get_lopt_params"
  return getattr(learner, name)(state)


def gin_completion() -> list[str]:
  """Bindings to parse after the user's own, for the library that is installed.

  What the user has bound stays. The optimizer whose theta the gradient learner initialises is the
  one bound to `run_train.lopt`. Save `gin.config_str()` from before they are parsed: a saved
  configuration that holds them loads in one version of the library alone.

  Raises:
    UnsupRuleError: `run_train.lopt` is not bound.
  """
  bindings = []
  lopt = _bound("run_train.lopt")
  if lopt is None:
    raise UnsupRuleError(
      "run_train.lopt is not bound; name the optimizer to meta-train in the gin file, for "
      "instance run_train.lopt = @UnsupervisedRule()"
    )
  meta_init = "GradientLearner." + ("meta_init" if compat.IS_HEAD else "lopt")
  if _bound(meta_init) is None:
    bindings.append(f"{meta_init} = {lopt!r}")
  learner, value = (
    ("run_train.outer_learner_fn", "@GradientLearner")
    if compat.IS_HEAD
    else ("run_train.outer_learner", "@GradientLearner()")
  )
  if _bound(learner) is None:
    bindings.append(f"{learner} = {value}")
  step = "build_gradient_estimators.truncated_step_fn"
  if compat.IS_HEAD and _estimator_is_ours() and _bound(step) is None:
    bindings.append(f"{step} = @task_and_optimizer")
  return bindings


def _bound(parameter: str) -> Any:
  """What gin binds to `parameter` outside all scopes, or None."""
  try:
    return gin.query_parameter(parameter)
  except ValueError:
    return None


def _estimator_is_ours() -> bool:
  bound = _bound("build_gradient_estimators.gradient_estimator_fn")
  configurable = getattr(bound, "configurable", None)
  return getattr(configurable, "module", None) == "unsup_rule"


def make_learner() -> library_learner.GradientLearner:
  """The learner that gin binds to `run_train`."""
  bound = gin.get_bindings("run_train")
  return bound["outer_learner_fn"]() if compat.IS_HEAD else bound["outer_learner"]


def sample_estimators(
  learned_opt: lopt_base.LearnedOptimizer,
  key: jax.Array,
  number: int,
  sample: Callable[..., Any] | None = None,
) -> Sequence[library_learner.GradientEstimator]:
  """Makes gradient estimators with the library's `build_gradient_estimators`, or with `sample`."""
  head_only: dict[str, Any] = {"worker_id": 0} if compat.IS_HEAD else {}
  return (sample or outer_train.build_gradient_estimators)(
    learned_opt=learned_opt, key=key, num_gradient_estimators=number, **head_only
  )


@contextlib.contextmanager
def running_trainer(local_train: Callable[..., None]) -> Iterator[None]:
  """Within it, the library's `run_train` trains in one process with `local_train`.

  Args:
    local_train: called with the keywords `train_log_dir`, `lopt`, `outer_learner`,
      `num_estimators`, `summary_every_n`, `num_steps`, `num_seconds`,
      `stochastic_resample_frequency` (as the library calls its own) and `sample_estimators`, a
      function (learned_opt, key, number) -> gradient estimators.
  """

  def call(*, sample_estimators_fn=None, run_num_estimators_per_gradient=None, **keywords):
    if run_num_estimators_per_gradient is not None:
      raise UnsupRuleError(
        "run_train.run_num_estimators_per_gradient is not supported: every step uses all "
        "run_train.num_estimators; remove the binding"
      )
    sample = functools.partial(sample_estimators, sample=sample_estimators_fn)
    local_train(sample_estimators=sample, **keywords)

  library_train = outer_train.local_train
  outer_train.local_train = call
  try:
    yield
  finally:
    outer_train.local_train = library_train
