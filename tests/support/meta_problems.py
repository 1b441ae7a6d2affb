"""Small problems to meta-train on, for the tests of the trainer. Gin knows them by name."""

import os
import time

import gin
import jax
import jax.numpy as jnp
import numpy as np
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.optimizers import base as opt_base
from learned_optimization.outer_trainers import gradient_learner
from learned_optimization.tasks import quadratics

from unsup_rule.meta.options import RunSettings, TrainerOptions
from unsup_rule.meta.settings import Settings

_FAMILIES = (
  quadratics.FixedDimQuadraticFamily(dim=3),
  quadratics.FixedDimQuadraticFamily(dim=5),
)


# A short run on them.
GIN = """
run_train.lopt = @LearnableAdam()
run_train.num_estimators = 2
run_train.num_steps = 200
run_train.stochastic_resample_frequency = 10
GradientLearner.theta_opt = @Adam()
Adam.learning_rate = %rate
rate = 1e-2
build_gradient_estimators.sample_task_family_fn = @two_quadratics
build_gradient_estimators.gradient_estimator_fn = @truncated_grad
truncated_grad.num_tasks = 2
truncated_grad.unroll_length = 2
truncated_grad.trunc_sched = @ConstantTruncationSchedule()
ConstantTruncationSchedule.total_length = 5
trainer.seed = 3
trainer.heldout_fn = @size_of_theta
"""


@gin.configurable(module="meta_problems")
def two_quadratics(key):
  """Samples one of two task families, so that replaced estimators need no compilation."""
  return _FAMILIES[int(jax.random.randint(key, (), 0, 2))]


@gin.configurable(module="meta_problems")
def paced_quadratics(key, seconds=0.5, until=""):
  """The same; takes `seconds` unless there is a file `until`.

  So a run that a test watches leaves the cores to others.
  """
  if not os.path.exists(until):
    time.sleep(seconds)
  return two_quadratics(key)


@gin.configurable(module="meta_problems")
def no_family(key):
  """Fails, as a data set does that is not there."""
  raise KeyError("there are no families today")


@gin.configurable(module="meta_problems")
def size_of_theta(lopt, theta):
  """Stands for a held-out measurement: deterministic, and different for each theta."""
  del lopt
  return {
    "accuracy": float(sum(np.abs(x).sum() for x in jax.tree_util.tree_leaves(theta))),
    "standard_error": 0.25,
  }


class FakeFamily:
  """A name, where 0.0.1 looks for one."""

  name = "fake_family"


class FakeEstimator(gradient_learner.GradientEstimator):
  """Gradients of one everywhere; the unroll state counts calls.

  From the call numbers in `bad_calls` on, gradients are NaN until the state is made anew.
  """

  task_family = FakeFamily()

  def __init__(self, bad_calls=(), on_call=None):
    self.calls = 0
    self.inits = 0
    self._bad_calls = bad_calls
    self._on_call = on_call

  def init_worker_state(self, worker_weights, key):
    self.inits += 1
    return {"age": jnp.zeros([], jnp.int32), "noise": jax.random.normal(key, (2,))}

  def compute_gradient_estimate(
    self, worker_weights, key, state, with_summary=False, datas_list=None
  ):
    self.calls += 1
    if self._on_call:
      self._on_call(self.calls)
    noise = state["noise"]
    if self.calls in self._bad_calls:
      noise = noise * jnp.nan
    gradient = jax.tree_util.tree_map(
      lambda x: jnp.ones_like(x) + 0 * noise[0], worker_weights.theta
    )
    output = gradient_learner.GradientEstimatorOut(
      mean_loss=jnp.float32(1.5),
      grad=gradient,
      unroll_state={"age": state["age"] + 1, "noise": noise},
      unroll_info=None,
    )
    return output, {}


def gradient_learner_of(lopt, theta_opt, **options):
  """The library's learner of `lopt`'s theta; 0.0.1 and HEAD name its first argument differently."""
  return gradient_learner.GradientLearner(lopt, theta_opt, **options)


def settings(sample, *, lopt=None, theta_opt=None, learner_options=None, trainer=None, **run):
  """Settings of a run with these estimators; by default of four parameters and plain descent.

  Args:
    sample: (learned optimizer, key, number) -> estimators.
    lopt: the learned optimizer.
    theta_opt: updates its theta.
    learner_options: further arguments of the library's learner.
    trainer: values of `TrainerOptions`.
    **run: values of `RunSettings`.
  """
  lopt = lopt or lopt_base.LearnableAdam()
  theta_opt = theta_opt or opt_base.SGD(0.125)
  run = {"num_estimators": 1, "stochastic_resample_frequency": 0, **run}
  return Settings(
    RunSettings(lopt, **run),
    lambda: gradient_learner_of(lopt, theta_opt, **(learner_options or {})),
    sample,
    TrainerOptions(**(trainer or {})),
    config_text="# The configuration.\n",
  )


def learner(learning_rate=0.125):
  """A learned optimizer of four parameters and the library's learner with gradient descent."""
  lopt = lopt_base.LearnableAdam()
  return lopt, gradient_learner_of(lopt, opt_base.SGD(learning_rate))
