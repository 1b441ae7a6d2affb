"""The library's gradient estimators behind one signature, for gin and for code.

The meta-loss is taken on a second batch: after each inner step the library calls the task's
`loss_with_state_and_aux` with new data and a new key.

In gin files, with either version of the library:

  build_gradient_estimators.gradient_estimator_fn = @truncated_grad
  truncated_grad.num_tasks = 8
  truncated_grad.unroll_length = 5
  truncated_grad.trunc_sched = @LogUniformLengthSchedule()
"""

import functools
from typing import NamedTuple

import gin
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner, truncation_schedule
from learned_optimization.outer_trainers import truncated_es as library_es
from learned_optimization.outer_trainers import truncated_grad as library_grad
from learned_optimization.outer_trainers import truncated_pes as library_pes
from learned_optimization.tasks import base as tasks_base

from unsup_rule import compat


class TaskAndOptimizer(NamedTuple):
  """What HEAD passes to the estimators below where 0.0.1 passes the two one by one."""

  task_family: tasks_base.TaskFamily
  learned_opt: lopt_base.LearnedOptimizer


@gin.configurable(module="unsup_rule")
def task_and_optimizer(
  task_family: tasks_base.TaskFamily, learned_opt: lopt_base.LearnedOptimizer
) -> TaskAndOptimizer:
  """HEAD's `build_gradient_estimators.truncated_step_fn` for the estimators of this module."""
  return TaskAndOptimizer(task_family, learned_opt)


@gin.configurable(module="unsup_rule")
def truncated_grad(
  task_family: tasks_base.TaskFamily | TaskAndOptimizer,
  learned_opt: lopt_base.LearnedOptimizer | None = None,
  trunc_sched: truncation_schedule.TruncationSchedule = gin.REQUIRED,
  *,
  num_tasks: int = gin.REQUIRED,
  unroll_length: int = gin.REQUIRED,
  steps_per_jit: int | None = None,
  random_initial_iteration_offset: int = 0,
) -> gradient_learner.GradientEstimator:
  """The library's `TruncatedGrad`: back-propagation through `unroll_length` inner steps.

  Args:
    task_family: distribution of the inner tasks (or, from HEAD, this and the next in one).
    learned_opt: the optimizer whose theta is meta-trained.
    trunc_sched: after how many inner steps a task starts anew.
    num_tasks: tasks trained side by side.
    unroll_length: inner steps per estimate.
    steps_per_jit: inner steps per compiled call, a divisor of `unroll_length`; None for all.
    random_initial_iteration_offset: tasks begin at a random inner step below this.

  Returns:
    The estimator; the same object for the same arguments, since each has its own compilation.
  """
  return _estimator(
    library_grad.TruncatedGrad,
    task_family,
    learned_opt,
    trunc_sched,
    num_tasks,
    random_initial_iteration_offset,
    unroll_length=unroll_length,
    steps_per_jit=steps_per_jit or unroll_length,
  )


@gin.configurable(module="unsup_rule")
def truncated_pes(
  task_family: tasks_base.TaskFamily | TaskAndOptimizer,
  learned_opt: lopt_base.LearnedOptimizer | None = None,
  trunc_sched: truncation_schedule.TruncationSchedule = gin.REQUIRED,
  *,
  num_tasks: int = gin.REQUIRED,
  trunc_length: int = gin.REQUIRED,
  std: float = 0.01,
  steps_per_jit: int | None = None,
  random_initial_iteration_offset: int = 0,
) -> gradient_learner.GradientEstimator:
  """The library's `TruncatedPES`: persistent evolution strategies.

  Args are those of `truncated_grad`, with `trunc_length` inner steps per estimate, and `std`, the
  standard deviation of theta's perturbations.
  """
  return _estimator(
    library_pes.TruncatedPES,
    task_family,
    learned_opt,
    trunc_sched,
    num_tasks,
    random_initial_iteration_offset,
    trunc_length=trunc_length,
    std=std,
    steps_per_jit=steps_per_jit or trunc_length,
  )


@gin.configurable(module="unsup_rule")
def truncated_es(
  task_family: tasks_base.TaskFamily | TaskAndOptimizer,
  learned_opt: lopt_base.LearnedOptimizer | None = None,
  trunc_sched: truncation_schedule.TruncationSchedule = gin.REQUIRED,
  *,
  num_tasks: int = gin.REQUIRED,
  unroll_length: int = gin.REQUIRED,
  std: float = 0.01,
  steps_per_jit: int | None = None,
  random_initial_iteration_offset: int = 0,
) -> gradient_learner.GradientEstimator:
  """The library's `TruncatedES`: antithetic evolution strategies.

  Args are those of `truncated_grad`, and `std`, the standard deviation of theta's perturbations.
  """
  return _estimator(
    library_es.TruncatedES,
    task_family,
    learned_opt,
    trunc_sched,
    num_tasks,
    random_initial_iteration_offset,
    unroll_length=unroll_length,
    std=std,
    steps_per_jit=steps_per_jit or unroll_length,
  )


def _estimator(
  estimator_class, task_family, learned_opt, trunc_sched, num_tasks, offset, **options
) -> gradient_learner.GradientEstimator:
  if isinstance(task_family, TaskAndOptimizer):
    task_family, learned_opt = task_family
  # gin makes an equal schedule anew for each estimator; the library compiles anew for each object.
  key = (type(trunc_sched), repr(sorted(vars(trunc_sched).items())))
  schedule = _schedules.setdefault(key, trunc_sched)
  return _cached_estimator(
    estimator_class, task_family, learned_opt, schedule, num_tasks, offset, **options
  )


_schedules: dict[tuple[type, str], truncation_schedule.TruncationSchedule] = {}


@functools.lru_cache(maxsize=64)
def _cached_estimator(
  estimator_class, task_family, learned_opt, trunc_sched, num_tasks, offset, **options
) -> gradient_learner.GradientEstimator:
  if compat.IS_HEAD:
    from learned_optimization.outer_trainers import (
      lopt_truncated_step,  # pyright: ignore[reportAttributeAccessIssue]
    )

    step = lopt_truncated_step.VectorizedLOptTruncatedStep(
      task_family,
      learned_opt,
      trunc_sched,
      num_tasks,
      meta_loss_split="outer_valid",
      random_initial_iteration_offset=offset,
    )
    return estimator_class(step, **options)
  return estimator_class(
    task_family,
    learned_opt,
    trunc_sched,
    num_tasks,
    train_and_meta=True,
    random_initial_iteration_offset=offset,
    **options,
  )
