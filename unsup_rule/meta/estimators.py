"""The library's gradient estimators behind one signature, for gin and for code.

The meta-loss is taken on a second batch: after each inner step the library calls the task's
`loss_with_state_and_aux` with new data and a new key.

In gin files, with either version of the library:

  build_gradient_estimators.gradient_estimator_fn = @truncated_grad
  truncated_grad.num_tasks = 8
  truncated_grad.unroll_length = (5, 10, 20)
  truncated_grad.trunc_sched = @LogUniformLengthSchedule()
"""

import dataclasses
import gc
import weakref
from collections.abc import Sequence

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
from unsup_rule.machine import memory
from unsup_rule.meta import groups as groups_module
from unsup_rule.meta.groups import GroupedEstimator
from unsup_rule.meta.segments import SegmentedGrad, segment_of

REMAT = ("none", "sqrt")
PRECISIONS = (None, "highest", "tensorfloat32", "bfloat16")
MOST_KEPT = 16  # Estimators of one process; each holds its compiled programs, 100 to 350 MB.
COMPILED = 3  # So many programs have room where one is compiled.

# HEAD passes both in one where 0.0.1 passes the two one by one.
TaskAndOptimizer = tuple[tasks_base.TaskFamily, lopt_base.LearnedOptimizer]


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
  groups: int | None = None,
  precision: str | None = None,
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
    groups: equal groups of tasks, each with a random stream of its own, computed side by side on as
      many cores; None for two where `num_tasks` is even, and one on an accelerator. Another number
      gives other random numbers, another machine does not. Several GPUs share them the same way.
    precision: of products on an accelerator, the probe's excepted: "highest" (float32),
      "tensorfloat32", "bfloat16", or None for jax's own choice, TF32 on recent GPUs. Sums, norms
      and states are float32 always, and so is everything on a CPU.
    remat: of the truncation T, beside `UnsupervisedRule.remat` of each step. "none" keeps the inner
      state of every step for the backward pass; "sqrt" keeps that of about sqrt(T) steps, each the
      start of a segment of `steps_per_jit` (None: the divisor of T next to sqrt(T)), and computes a
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
    "unroll_length",
    unroll_length,
    num_tasks=num_tasks,
    groups=groups,
    precision=precision,
    steps_per_jit=steps_per_jit,
    offset=random_initial_iteration_offset,
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
  groups: int | None = None,
  precision: str | None = None,
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
    "trunc_length",
    trunc_length,
    num_tasks=num_tasks,
    groups=groups,
    precision=precision,
    steps_per_jit=steps_per_jit,
    offset=random_initial_iteration_offset,
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
  groups: int | None = None,
  precision: str | None = None,
) -> gradient_learner.GradientEstimator:
  """The library's `TruncatedES`: antithetic evolution strategies.

  Args are those of `truncated_grad`, and `std`, the standard deviation of theta's perturbations.
  """
  return _estimator(
    library_es.TruncatedES,
    task_family,
    learned_opt,
    trunc_sched,
    "unroll_length",
    unroll_length,
    num_tasks=num_tasks,
    groups=groups,
    precision=precision,
    steps_per_jit=steps_per_jit,
    offset=random_initial_iteration_offset,
    std=std,
  )


@dataclasses.dataclass(frozen=True)
class _Kind:
  """All that a grouped estimator depends on; equal ones share one estimator and its programs."""

  stock: type
  task_family: tasks_base.TaskFamily
  learned_opt: lopt_base.LearnedOptimizer
  schedule: truncation_schedule.TruncationSchedule = dataclasses.field(compare=False)
  schedule_settings: tuple[type, str]
  num_tasks: int
  groups: int
  precision: str | None
  offset: int
  options: tuple[tuple[str, float], ...]


class _Shared:
  """One estimator of each kind: of those that nobody uses, the `most` that were last asked for.

  The programs of others go with them, and come back from the cache on disk.
  """

  def __init__(self, most: int):
    self._most = most
    self._living: weakref.WeakValueDictionary[_Kind, GroupedEstimator] = (
      weakref.WeakValueDictionary()
    )
    self._latest: dict[_Kind, GroupedEstimator] = {}

  def get(self, kind: _Kind) -> GroupedEstimator:
    """The estimator of this kind, an old or a new one."""
    found = self._living.get(kind)
    if found is None:
      memory.give_back()  # What compiling the ones before has left.
      found = GroupedEstimator(_stock(kind), kind.groups, kind.precision, self.make_room)
      self._living[kind] = found
    self._latest.pop(kind, None)
    self._latest[kind] = found
    self.keep(self._most)
    return found

  def keep(self, most: int) -> None:
    """Keeps no more than this from now on."""
    self._most = most
    if dropped := list(self._latest)[:-most]:
      for kind in dropped:
        del self._latest[kind]
      _free()

  def make_room(self, estimator: GroupedEstimator) -> None:
    """Lets go of programs before this estimator makes its own.

    To compile it, the first time, takes the room of several: so many fewer stay beside it.
    Estimators whose program went read it back from the cache on disk when they are next asked.
    """
    beside = self._most - (1 if estimator.had_program else COMPILED)
    others = [one for one in self._latest.values() if one is not estimator and one.has_program]
    if dropped := others[: max(0, len(others) - beside)]:
      for one in dropped:
        one.drop_program()
      _free()


def _free() -> None:
  gc.collect()  # An estimator and its programs hold each other.
  memory.give_back()


_shared = _Shared(MOST_KEPT)
keep = _shared.keep


def _stock(kind: _Kind) -> groups_module.StockEstimator:
  """An estimator of the library whose meta-loss is taken on a second batch after each step."""
  arguments = (kind.task_family, kind.learned_opt, kind.schedule, kind.num_tasks // kind.groups)
  offset = {"random_initial_iteration_offset": kind.offset}
  options = dict(kind.options)
  if not compat.IS_HEAD:
    return kind.stock(*arguments, train_and_meta=True, **offset, **options)
  from learned_optimization.outer_trainers import (
    lopt_truncated_step,  # pyright: ignore[reportAttributeAccessIssue]
  )

  step = lopt_truncated_step.VectorizedLOptTruncatedStep(
    *arguments, meta_loss_split="outer_valid", **offset
  )
  return kind.stock(step, **options)


class SampledTruncations(gradient_learner.GradientEstimator):
  """Draws, for each estimate, one of several estimators that differ in the length of a truncation.

  They share the state of the inner problems, which go on with another length at any time. The
  length is chosen outside of jit: it is the length of a compiled loop.

  Args:
    estimators: alike but for the number of inner steps of an estimate.
  """

  def __init__(self, estimators: Sequence[GroupedEstimator]):
    self.estimators = tuple(estimators)
    self.task_family = self.estimators[0].task_family
    self.num_tasks = self.estimators[0].num_tasks
    self.name = self.estimators[0].name

  def task_name(self) -> str:
    """The name of the task family."""
    return self.task_family.name

  def init_worker_state(
    self, worker_weights: gradient_learner.WorkerWeights, key: jax.Array
  ) -> gradient_learner.GradientEstimatorState:
    """Inner problems, as any of the estimators begins them."""
    return self.estimators[0].init_worker_state(worker_weights, key)

  def compute_gradient_estimate(
    self,
    worker_weights: gradient_learner.WorkerWeights,
    key: jax.Array,
    state: gradient_learner.GradientEstimatorState,
    with_summary: bool = False,
    datas_list: object = None,
  ) -> tuple[gradient_learner.GradientEstimatorOut, dict[str, jax.Array]]:
    """One estimate over a truncation of a length drawn with `key`."""
    length_key, key = jax.random.split(key)
    estimator = self.estimators[int(jax.random.randint(length_key, (), 0, len(self.estimators)))]
    return estimator.compute_gradient_estimate(worker_weights, key, state, with_summary, datas_list)


def _estimator(
  stock: type,
  task_family: tasks_base.TaskFamily | TaskAndOptimizer,
  learned_opt: lopt_base.LearnedOptimizer | None,
  schedule: truncation_schedule.TruncationSchedule,
  length_name: str,
  lengths: int | Sequence[int],
  *,
  num_tasks: int,
  groups: int | None,
  precision: str | None,
  steps_per_jit: int | None,
  offset: int,
  **options: float,
) -> GroupedEstimator | SampledTruncations:
  lengths = (lengths,) if isinstance(lengths, int) else tuple(lengths)
  _check_lengths(length_name, lengths, steps_per_jit)
  if precision not in PRECISIONS:
    names = ", ".join(map(str, PRECISIONS))
    raise UnsupRuleError(f"precision is {precision!r}; choose one of {names}")
  if isinstance(task_family, tuple):
    task_family, learned_opt = task_family
  assert learned_opt is not None
  groups = groups_module.number(groups, num_tasks)

  def of_length(length: int) -> GroupedEstimator:
    segment = segment_of(length) if stock is SegmentedGrad else length
    of_stock = {**options, length_name: length, "steps_per_jit": steps_per_jit or segment}
    return _shared.get(
      _Kind(
        stock,
        task_family,
        learned_opt,
        schedule,
        values_of(schedule),
        num_tasks,
        groups,
        precision,
        offset,
        tuple(of_stock.items()),
      )
    )

  estimators = [of_length(length) for length in lengths]
  return estimators[0] if len(estimators) == 1 else SampledTruncations(estimators)


def _check_lengths(name: str, lengths: Sequence[int], steps_per_jit: int | None) -> None:
  if not lengths or min(lengths) < 1:
    raise UnsupRuleError(
      f"{name} is {lengths}; give one or several numbers of inner steps, each at least 1"
    )
  if steps_per_jit is not None and steps_per_jit < 1:
    raise UnsupRuleError(f"steps_per_jit is {steps_per_jit}; give a divisor of {name}")
  for length in lengths:
    if length % (steps_per_jit or length):
      raise UnsupRuleError(
        f"steps_per_jit {steps_per_jit} does not divide {name} {length}; choose a divisor"
      )


def values_of(configured: object) -> tuple[type, str]:
  """What tells two objects apart that gin made: it makes an equal one anew for each reference."""
  return type(configured), repr(sorted(vars(configured).items()))


def task_family(
  estimator: gradient_learner.GradientEstimator,
) -> tasks_base.TaskFamily | None:
  """Returns the task family that an estimator works on, or None."""
  return getattr(groups_module.step_of(estimator), "task_family", None)


def is_shared(estimator: gradient_learner.GradientEstimator) -> bool:
  """Whether the same object is made again from the same settings, with its compiled programs."""
  return isinstance(estimator, GroupedEstimator | SampledTruncations)


def most_groups() -> int:
  """The largest number of groups that gin asks of an estimator here: that many cores help."""
  found = [1]
  for kind in (truncated_grad, truncated_pes, truncated_es):
    bound = gin.get_bindings(kind)
    if "num_tasks" in bound:
      found.append(bound.get("groups") or groups_module.default_number(bound["num_tasks"]))
  return max(found)
