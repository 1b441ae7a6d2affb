"""The tasks of an estimate shared among the cores, each of which is a device of jax.

Every core unrolls its own tasks from start to end. What the cores found is put together outside the
compiled program, which has no point where they meet: jax ends a process whose cores wait for each
other for a minute, and on a busy machine they would.

Only tasks of a family with `shareable = True` are shared: they must not call what waits for jax's
pool of threads, whose threads the cores' programs occupy. LAPACK on batches does: a process whose
cores are all in it hangs.

The library's functions for one step of all tasks take a key for each task; a core takes those of
its share, so that a task draws the same numbers on any number of cores.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec
from learned_optimization.outer_trainers import common, gradient_learner

from unsup_rule import compat
from unsup_rule.rule.tuning import largest_divisor

if compat.IS_HEAD:
  from learned_optimization.outer_trainers import (
    lopt_truncated_step as steps,  # pyright: ignore[reportAttributeAccessIssue]
  )
else:
  steps = common

AXIS = "tasks"
WHOLE, TASKS, STEPS_OF_TASKS = PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(None, AXIS)
# Positions of the keys, one a task, among the arguments of the library's functions.
_KEYS = {
  "truncated_unroll_one_step": 4,
  "truncated_unroll_one_step_vec_theta": 4,
  "vectorized_loss_and_aux": 5,
}
# And of theta among those of `truncated_unroll`: before it are static ones, the last of which tells
# whether there is one theta a task.
THETA = 3 if compat.IS_HEAD else 8


def number_for(n_tasks: int, family: Any) -> int:
  """Equal shares of the tasks: as many as there are CPU devices to have one; else, 1."""
  if jax.default_backend() != "cpu" or not getattr(family, "shareable", False):
    return 1
  return largest_divisor(n_tasks, jax.device_count())


def _mapped(function: Callable[..., Any], n_shares: int, in_specs: Any, out_specs: Any) -> Any:
  mesh = Mesh(np.array(jax.devices()[:n_shares]), AXIS)
  return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


@contextlib.contextmanager
def replaced(module: Any, **functions: Any) -> Iterator[None]:
  """Within, these functions of the library are others; it looks them up when it calls them."""
  of_library = {name: getattr(module, name) for name in functions}
  try:
    for name, function in functions.items():
      setattr(module, name, function)
    yield
  finally:
    for name, function in of_library.items():
      setattr(module, name, function)


def _own(x: jax.Array, n_shares: int, axis: int = 0) -> jax.Array:
  """This core's share of x along an axis of tasks."""
  share = x.shape[axis] // n_shares
  return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * share, share, axis)


def _own_keys(n_shares: int) -> contextlib.AbstractContextManager[None]:
  """Within, the library's functions get keys of all tasks and use those of this core's share."""

  def taking(function, position):
    def call(*arguments):
      own = _own(arguments[position], n_shares)
      return function(*arguments[:position], own, *arguments[position + 1 :])

    return call

  return replaced(steps, **{name: taking(getattr(steps, name), at) for name, at in _KEYS.items()})


def estimate(compute: Callable[..., Any], n_tasks: int, n_shares: int) -> Callable[..., Any]:
  """An estimate by back-propagation, for `jax.jit`, each core's part of which `total` adds up.

  Args:
    compute: the library's estimate of (worker weights, key, state [tasks, ..]).
    n_tasks: of the estimate.
    n_shares: cores to share them, a divisor.

  Returns:
    A function like `compute` but for mean loss and gradient, which are parts [shares, ..].
  """
  if n_shares == 1:
    return compute
  unroll_of_library = common.truncated_unroll

  def unroll(*arguments, **options):
    # The library means over all tasks, so that those of other cores count as losses of 0.
    (state, outs), metrics = unroll_of_library(*arguments, **options)
    first = jax.lax.axis_index(AXIS) * (n_tasks // n_shares)

    def placed(x):
      among_all = jnp.zeros((len(x), n_tasks, *x.shape[2:]), x.dtype)
      return jax.lax.dynamic_update_slice_in_dim(among_all, x, first, axis=1)

    mask = jnp.logical_not(placed(jnp.logical_not(outs.mask)))  # HEAD divides by its sum
    return (state, jax.tree.map(placed, outs).replace(mask=mask)), metrics

  def own(weights, key, state):
    with _own_keys(n_shares), replaced(common, truncated_unroll=unroll):
      out = compute(weights, key, state)
    mean_loss, grad = jax.tree.map(lambda x: x[None], (out.mean_loss, out.grad))
    info = jax.tree.map(lambda x: _own(x, n_shares, axis=1), out.unroll_info)
    return out.replace(mean_loss=mean_loss, grad=grad, unroll_info=info)

  make: Any = gradient_learner.GradientEstimatorOut  # A flax dataclass, opaque to type checkers.
  parts = make(mean_loss=TASKS, grad=TASKS, unroll_state=TASKS, unroll_info=STEPS_OF_TASKS)
  return _mapped(own, n_shares, (WHOLE, WHOLE, TASKS), parts)


def total(out: Any, n_shares: int) -> Any:
  """What `estimate` gave, on one device, its parts summed."""
  if n_shares == 1:
    return out

  def summed(x):
    return x.sum(axis=0) if isinstance(x, Tracer) else jnp.asarray(np.asarray(x).sum(axis=0))

  mean_loss, grad = jax.tree.map(summed, (out.mean_loss, out.grad))
  return gathered(out.replace(mean_loss=mean_loss, grad=grad))


def unrolling(n_shares: int) -> contextlib.AbstractContextManager[None]:
  """Within, the library's unrolls outside of programs share their tasks, summaries excepted."""
  if n_shares == 1:
    return contextlib.nullcontext()
  of_library = common.truncated_unroll

  def unroll(*arguments, with_summary=False, **options):
    if with_summary:
      return of_library(*arguments, with_summary=with_summary, **options)
    static, dynamic = arguments[:THETA], arguments[THETA:]
    return gathered(_unroll_program(of_library, static, n_shares)(*dynamic))

  return replaced(common, truncated_unroll=unroll)


@functools.cache
def _unroll_program(of_library: Callable[..., Any], static: tuple, n_shares: int) -> Any:
  def own(*dynamic):
    with _own_keys(n_shares):
      return of_library(*static, *dynamic)

  def call(theta, key, state, datas, outer_state, *others):
    in_specs = (TASKS if static[-1] else WHOLE, WHOLE, TASKS, STEPS_OF_TASKS, WHOLE)
    in_specs = in_specs + (WHOLE,) * len(others)
    mapped = _mapped(own, n_shares, in_specs, ((TASKS, STEPS_OF_TASKS), WHOLE))
    return mapped(theta, key, state, datas, outer_state, *others)

  return jax.jit(call)


def gathered(tree: Any) -> Any:
  """`tree` with arrays that lie on several devices brought to the first, free to go anywhere.

  A program is compiled for where its arguments lie: without this, the next one would be compiled
  once more for what comes back from a shared one.
  """

  def gather(x):
    if not isinstance(x, jax.Array) or isinstance(x, Tracer):
      return x
    return jnp.asarray(np.asarray(x)) if len(x.sharding.device_set) > 1 else x

  return jax.tree.map(gather, tree)
