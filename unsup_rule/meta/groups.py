"""The tasks of an estimate in groups, side by side on jax's devices: cores, or several GPUs.

Each group is a stock estimator of the library with a key of its own, so that the numbers depend on
how many groups there are and never on how many devices. One computes whole groups from start to
end; what the groups found is put together outside the compiled program, which has no point where
cores meet: jax ends a process whose cores wait for each other for a minute, and on a busy machine
they would.

Only groups of a task family with `shareable = True` run side by side: they must not call what waits
for jax's pool of threads, whose threads the cores' programs occupy. LAPACK on batches does: a
process whose cores are all in it hangs. Groups of other families take their turns, and so do those
of tasks whose batches are read in Python.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers.gradient_learner import (
  GradientEstimator,
  GradientEstimatorOut,
  GradientEstimatorState,
  WorkerWeights,
)
from learned_optimization.tasks import base as tasks_base

from unsup_rule import compat
from unsup_rule.compat import library
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule import tuning

_WHOLE, _GROUPS = PartitionSpec(), PartitionSpec("groups")


def number(groups: int | None, num_tasks: int) -> int:
  """How many groups of tasks an estimate has: `groups`, or else the default.

  Raises:
    UnsupRuleError: they would not be of one size, or there are no tasks.
  """
  if num_tasks < 1:
    raise UnsupRuleError(f"num_tasks is {num_tasks}; give at least 1")
  if groups is None:
    return default_number(num_tasks) if tuning.on_cpu() else 1
  if groups < 1 or num_tasks % groups:
    raise UnsupRuleError(f"groups is {groups}; give a divisor of num_tasks, which is {num_tasks}")
  return groups


def default_number(num_tasks: int) -> int:
  """Groups of so many tasks on processors: two, where the tasks are even in number."""
  return 2 if num_tasks % 2 == 0 else 1


class StockEstimator(Protocol):
  """What the library's truncated estimators have in common, in both its versions."""

  steps_per_jit: int

  def init_worker_state(
    self, worker_weights: WorkerWeights, key: jax.Array
  ) -> GradientEstimatorState: ...

  def compute_gradient_estimate(
    self,
    worker_weights: WorkerWeights,
    key: jax.Array,
    state: GradientEstimatorState,
    with_summary: bool,
    **data: object,
  ) -> tuple[GradientEstimatorOut, Mapping[str, jax.Array]]: ...

  def get_datas(self) -> object:
    """Reads the data of an estimate; HEAD has it."""
    ...


class GroupedEstimator(GradientEstimator):
  """Several groups of tasks, each an estimate of one stock estimator; gradients are averaged.

  States have a leading axis of groups. There are no summaries.

  Attributes:
    stock: the estimator of a group.
    n_groups: how many there are.
    precision: of products on an accelerator, see `jax.default_matmul_precision`.
    truncated_step: of the stock estimator, which HEAD's estimators keep what they unroll in.
    task_family: what all of them work on.
    learned_opt: the optimizer whose theta is meta-trained.
    make_room: is called with this estimator before it makes its program.
    had_program: whether it has made it before; then the cache on disk has it.
  """

  def __init__(
    self,
    stock: StockEstimator,
    n_groups: int,
    precision: str | None = None,
    make_room: Callable[["GroupedEstimator"], None] = lambda _: None,
  ):
    self.stock, self.n_groups, self.precision = stock, n_groups, precision
    self.make_room, self.had_program = make_room, False
    self.truncated_step = step_of(stock)
    self.task_family: tasks_base.TaskFamily = self.truncated_step.task_family
    self.learned_opt: lopt_base.LearnedOptimizer = self.truncated_step.learned_opt

  @property
  def name(self) -> str:
    """The stock estimator's class, for messages."""
    return type(self.stock).__name__

  @property
  def num_tasks(self) -> int:
    """Of all groups."""
    return self.n_groups * self.truncated_step.num_tasks

  def task_name(self) -> str:
    """The name of the task family."""
    return self.task_family.name

  def init_worker_state(
    self, worker_weights: WorkerWeights, key: jax.Array
  ) -> GradientEstimatorState:
    """Inner problems of all groups, [groups, ..]."""
    return self._init(worker_weights, self._keys(key))

  def compute_gradient_estimate(
    self,
    worker_weights: WorkerWeights,
    key: jax.Array,
    state: GradientEstimatorState,
    with_summary: bool = False,
    datas_list: object = None,
  ) -> tuple[GradientEstimatorOut, dict[str, jax.Array]]:
    """One estimate: the mean of the groups' gradients and losses, and all their tasks' outcomes."""
    del with_summary, datas_list
    keys = self._keys(key)
    if self._reads_in_python:
      outs = [
        self._estimate(worker_weights, keys[group], _at(group, state))
        for group in range(self.n_groups)
      ]
      out = jax.tree.map(lambda *leaves: np.stack(leaves), *outs)
    elif self.n_devices == self.n_groups:
      out = self.program(worker_weights, keys, state)
    else:
      state = jax.tree.map(np.asarray, state)
      outs = [self.program(worker_weights, keys[own], _at(own, state)) for own in self._rounds()]
      out = jax.tree.map(lambda *leaves: np.concatenate(leaves), *outs)
    losses, gradients, infos = jax.device_get((out.mean_loss, out.grad, out.unroll_info))
    loss, gradient = jax.tree.map(lambda x: x.mean(axis=0), (losses, gradients))
    info = jax.tree.map(lambda x: np.concatenate(x, axis=1), infos)
    return library.make(
      GradientEstimatorOut,
      mean_loss=loss,
      grad=gradient,
      unroll_state=out.unroll_state,
      unroll_info=info,
    ), {}

  def memory(
    self, worker_weights: WorkerWeights, key: jax.Array, state: GradientEstimatorState
  ) -> int:
    """Bytes of an estimate on each device: arguments, results, and what is kept between.

    It compiles the program, or reads it from the cache of compiled programs.
    """
    own = self._rounds()[0]
    program = self.program.lower(worker_weights, self._keys(key)[own], _at(own, state)).compile()
    found: Any = program.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes

  @functools.cached_property
  def n_devices(self) -> int:
    """On how many devices the groups run."""
    if tuning.on_cpu() and not getattr(self.task_family, "shareable", False):
      return 1
    return tuning.largest_divisor(self.n_groups, jax.device_count())

  @functools.cached_property
  def _reads_in_python(self) -> bool:
    # A task with data sets reads its batches in Python, which a program would do but once. Calls
    # for parts of a truncation would be as many copies in it.
    return length_of(self.stock) > self.stock.steps_per_jit or self.task_family.datasets is not None

  def _keys(self, key: jax.Array) -> jax.Array:
    return jax.vmap(functools.partial(jax.random.fold_in, key))(np.arange(self.n_groups))

  def _rounds(self) -> list[slice]:
    starts = range(0, self.n_groups, self.n_devices)
    return [slice(start, start + self.n_devices) for start in starts]

  def _estimate(
    self,
    worker_weights: WorkerWeights,
    key: jax.Array,
    state: GradientEstimatorState,
    **data: object,
  ) -> GradientEstimatorOut:
    with at_precision(self.precision):
      return self.stock.compute_gradient_estimate(
        worker_weights, key, state, with_summary=False, **data
      )[0]

  @functools.cached_property
  def _init(self) -> Callable[[WorkerWeights, jax.Array], GradientEstimatorState]:
    def init(worker_weights, keys):
      return jax.lax.map(lambda key: self.stock.init_worker_state(worker_weights, key), keys)

    return jax.jit(init)

  @property
  def has_program(self) -> bool:
    """Whether `program` is in memory."""
    return "program" in self.__dict__

  def drop_program(self) -> None:
    """Lets go of `program`; the next estimate makes it anew."""
    if self.has_program:
      del self.program

  @functools.cached_property
  def program(
    self,
  ) -> Callable[[WorkerWeights, jax.Array, GradientEstimatorState], GradientEstimatorOut]:
    """(worker weights, keys [devices, 2], state [devices, ..]) -> what each group found."""
    self.make_room(self)
    self.had_program = True
    # HEAD wants data from outside of a program, even where there is none.
    data = {"datas_list": self.stock.get_datas()} if compat.IS_HEAD else {}

    def own_group(worker_weights, keys, state):
      out = self._estimate(worker_weights, keys[0], _at(0, state), **data)
      return jax.tree.map(lambda x: x[None], out)

    mesh = Mesh(np.array(jax.devices()[: self.n_devices]), _GROUPS[0])
    specs = (_WHOLE, _GROUPS, _GROUPS)
    mapped = jax.shard_map(own_group, mesh=mesh, in_specs=specs, out_specs=_GROUPS, check_vma=False)
    return jax.jit(mapped, in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs))


def at_precision(precision: str | None) -> contextlib.AbstractContextManager[object]:
  """Has jax trace products of this precision within; None changes nothing."""
  return jax.default_matmul_precision(precision) if precision else contextlib.nullcontext()


def length_of(estimator: StockEstimator) -> int:
  """Inner steps of an estimate."""
  name = "unroll_length" if hasattr(estimator, "unroll_length") else "trunc_length"
  return getattr(estimator, name)


def step_of(estimator: object) -> Any:
  """What has `task_family` and `num_tasks` of an estimator of the library: itself in 0.0.1."""
  return getattr(estimator, "truncated_step", estimator)


def _at(index: int | slice, tree: Any) -> Any:
  return jax.tree.map(lambda x: x[index], tree)
