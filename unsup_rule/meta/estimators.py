"""The library's gradient estimators behind one signature, for gin and for code.

The meta-loss is taken on a second batch: after each inner step the library calls the task's
`loss_with_state_and_aux` with new data and a new key.

In gin files, with either version of the library:

  build_gradient_estimators.gradient_estimator_fn = @truncated_grad
  truncated_grad.num_tasks = 8
  truncated_grad.unroll_length = (5, 10, 20)
  truncated_grad.trunc_sched = @LogUniformLengthSchedule()
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin
import jax
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner, truncation_schedule
from learned_optimization.outer_trainers import truncated_es as library_es
from learned_optimization.outer_trainers import truncated_grad as library_grad
from learned_optimization.outer_trainers import truncated_pes as library_pes
from learned_optimization.tasks import base as tasks_base

from unsup_rule import compat
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import shares
from unsup_rule.meta.segments import SegmentedGrad, segment_of

REMAT = ("none", "sqrt")


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
  unroll_length: int | Sequence[int] = gin.REQUIRED,
  steps_per_jit: int | None = None,
  random_initial_iteration_offset: int = 0,
  remat: str = "none",
) -> gradient_learner.GradientEstimator:
  """The library's `TruncatedGrad`: back-propagation through `unroll_length` inner steps.

  Args:
    task_family: distribution of the inner tasks (or, from HEAD, this and the next in one).
    learned_opt: the optimizer whose theta is meta-trained.
    trunc_sched: after how many inner steps a task starts anew.
    num_tasks: tasks trained side by side.
    unroll_length: inner steps per estimate; of several numbers, each estimate draws one.
    steps_per_jit: inner steps per compiled call, a divisor of `unroll_length`; None for all.
    random_initial_iteration_offset: tasks begin at a random inner step below this.
    remat: of the truncation T, beside `UnsupervisedRule.remat` of each step. "none" keeps the inner
      state of every step for the way back; "sqrt" keeps that of about sqrt(T) steps, each the start
      of a segment of `steps_per_jit` (None: the divisor of T next to sqrt(T)), and computes a
      segment again when its turn comes: memory grows with sqrt(T), for one more forward pass.

  Returns:
    The estimator; the same object for the same arguments, since each has its own compilation.
  """
  if remat not in REMAT:
    raise UnsupRuleError(f"truncated_grad.remat is {remat!r}; choose one of {', '.join(REMAT)}")
  return _estimator(
    SegmentedGrad if remat == "sqrt" else library_grad.TruncatedGrad,
    task_family,
    learned_opt,
    trunc_sched,
    num_tasks,
    random_initial_iteration_offset,
    "unroll_length",
    unroll_length,
    steps_per_jit,
  )


@gin.configurable(module="unsup_rule")
def truncated_pes(
  task_family: tasks_base.TaskFamily | TaskAndOptimizer,
  learned_opt: lopt_base.LearnedOptimizer | None = None,
  trunc_sched: truncation_schedule.TruncationSchedule = gin.REQUIRED,
  *,
  num_tasks: int = gin.REQUIRED,
  trunc_length: int | Sequence[int] = gin.REQUIRED,
  std: float = 0.01,
  steps_per_jit: int | None = None,
  random_initial_iteration_offset: int = 0,
) -> gradient_learner.GradientEstimator:
  """The library's `TruncatedPES`: persistent evolution strategies.

  Args are those of `truncated_grad`, with `trunc_length` in place of `unroll_length`, and `std`,
  the standard deviation of theta's perturbations.
  """
  return _estimator(
    library_pes.TruncatedPES,
    task_family,
    learned_opt,
    trunc_sched,
    num_tasks,
    random_initial_iteration_offset,
    "trunc_length",
    trunc_length,
    steps_per_jit,
    std=std,
  )


@gin.configurable(module="unsup_rule")
def truncated_es(
  task_family: tasks_base.TaskFamily | TaskAndOptimizer,
  learned_opt: lopt_base.LearnedOptimizer | None = None,
  trunc_sched: truncation_schedule.TruncationSchedule = gin.REQUIRED,
  *,
  num_tasks: int = gin.REQUIRED,
  unroll_length: int | Sequence[int] = gin.REQUIRED,
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
    "unroll_length",
    unroll_length,
    steps_per_jit,
    std=std,
  )


class SampledTruncations(gradient_learner.GradientEstimator):
  """Draws, for each estimate, one of several estimators that differ in the length of a truncation.

  They share the state of the inner problems, which go on with another length at any time. The
  length is chosen outside of jit: it is the length of a compiled loop.

  Args:
    estimators: alike but for the number of inner steps of an estimate.
  """

  def __init__(self, estimators: Sequence[gradient_learner.GradientEstimator]):
    self.estimators = tuple(estimators)
    self.task_family = task_family(self.estimators[0])

  def task_name(self) -> str:
    """The name of the task family."""
    return self.task_family.name

  def init_worker_state(self, worker_weights: Any, key: jax.Array) -> Any:
    """Inner problems, as any of the estimators begins them."""
    return self.estimators[0].init_worker_state(worker_weights, key)

  def compute_gradient_estimate(
    self,
    worker_weights: Any,
    key: jax.Array,
    state: Any,
    with_summary: bool = False,
    **options: Any,
  ) -> tuple[gradient_learner.GradientEstimatorOut, Any]:
    """One estimate over a truncation of a length drawn with `key`."""
    length_key, key = jax.random.split(key)
    estimator = self.estimators[int(jax.random.randint(length_key, (), 0, len(self.estimators)))]
    return estimator.compute_gradient_estimate(
      worker_weights, key, state, with_summary=with_summary, **options
    )


def _estimator(
  estimator_class,
  task_family,
  learned_opt,
  trunc_sched,
  num_tasks,
  offset,
  length_name,
  lengths,
  steps_per_jit,
  **options,
) -> gradient_learner.GradientEstimator:
  lengths = (lengths,) if isinstance(lengths, int) else tuple(lengths)
  if not lengths or min(lengths) < 1:
    raise UnsupRuleError(
      f"{length_name} is {lengths}; give one or several numbers of inner steps, each at least 1"
    )
  for length in lengths:
    if length % (steps_per_jit or length):
      raise UnsupRuleError(
        f"steps_per_jit {steps_per_jit} does not divide {length_name} {length}; choose a divisor"
      )
  if isinstance(task_family, TaskAndOptimizer):
    task_family, learned_opt = task_family
  # gin makes an equal schedule anew for each estimator; the library compiles anew for each object.
  key = (type(trunc_sched), repr(sorted(vars(trunc_sched).items())))
  schedule = _schedules.setdefault(key, trunc_sched)
  segmented = estimator_class is SegmentedGrad
  estimator_class = _sharing(estimator_class)
  estimators = tuple(
    _cached_estimator(
      estimator_class,
      task_family,
      learned_opt,
      schedule,
      num_tasks,
      offset,
      steps_per_jit=steps_per_jit or (segment_of(length) if segmented else length),
      **{length_name: length},
      **options,
    )
    for length in lengths
  )
  return estimators[0] if len(estimators) == 1 else SampledTruncations(estimators)


_schedules: dict[tuple[type, str], truncation_schedule.TruncationSchedule] = {}


def task_family(estimator: Any) -> Any:
  """Returns the task family that an estimator works on, or None."""
  # HEAD's estimators keep it one level down.
  return getattr(getattr(estimator, "truncated_step", estimator), "task_family", None)


def number_of_tasks(estimator: Any) -> int:
  """Returns how many tasks an estimator of the library trains side by side."""
  return getattr(estimator, "truncated_step", estimator).num_tasks


class _OnCores:
  """An estimator that knows among how many cores its tasks are shared."""

  @functools.cached_property
  def _n_shares(self) -> int:
    return shares.number_for(number_of_tasks(self), task_family(self))


class _Shared(_OnCores):
  """An estimator whose unrolls share their tasks among the cores."""

  def compute_gradient_estimate(self, *arguments: Any, **options: Any) -> Any:
    """One estimate; see the library's class."""
    estimate: Any = super()
    with shares.unrolling(self._n_shares):
      return estimate.compute_gradient_estimate(*arguments, **options)


class _OneProgram(_OnCores):
  """A `TruncatedGrad` whose estimate is one compiled program, its tasks shared among the cores.

  The library compiles the way forward and the way back one by one, each with much of the other.
  """

  @functools.cached_property
  def _program(self) -> Any:
    library: Any = self
    estimate: Any = super()
    # HEAD wants data from outside of a program, even where there is none.
    data = {"datas_list": library.get_datas()} if compat.IS_HEAD else {}

    def compute(*arguments):
      return estimate.compute_gradient_estimate(*arguments, **data)[0]

    return jax.jit(shares.estimate(compute, number_of_tasks(self), self._n_shares))

  def compute_gradient_estimate(
    self,
    worker_weights: Any,
    key: jax.Array,
    state: Any,
    with_summary: bool = False,
    **options: Any,
  ) -> Any:
    """One estimate; see the library's class."""
    library: Any = self
    estimate: Any = super()
    # A task with data sets reads its batches in Python, which a program would do but once. Calls
    # for parts of a truncation would be as many copies in it.
    in_parts = library.unroll_length > library.steps_per_jit
    in_python = in_parts or task_family(library).datasets is not None
    if with_summary or options or in_python:
      return estimate.compute_gradient_estimate(
        worker_weights, key, state, with_summary=with_summary, **options
      )
    return shares.total(self._program(worker_weights, key, state), self._n_shares), {}


@functools.cache
def _sharing(estimator_class: type) -> type:
  """`estimator_class` under its own name, with its tasks shared among the cores."""
  through = issubclass(estimator_class, library_grad.TruncatedGrad)
  return type(estimator_class.__name__, (_OneProgram if through else _Shared, estimator_class), {})


@functools.cache  # As many as there are combinations of task family and length.
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
