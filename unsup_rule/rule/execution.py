"""How an application of the rule is run: what is kept for the way back, how tasks are batched, and
what XLA may fuse.

None changes a number. All are chosen by measurement, see docs/performance.md.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh, PartitionSpec

from unsup_rule.errors import UnsupRuleError

REMAT = ("step", "none")
TASKS = ("auto", "map", "split", "vmap")
_AXIS = "tasks"
# Entries of the arguments of tasks that are batched on a CPU: theta, inner state and batch. Small
# operations cost more than their arithmetic, but large values had better stay in the cache.
AT_ONCE = 2**18


def check(remat: str, tasks: str) -> None:
  """Raises if a name is unknown."""
  if remat not in REMAT:
    raise UnsupRuleError(f"UnsupervisedRule.remat is {remat!r}; choose one of {', '.join(REMAT)}")
  if tasks not in TASKS:
    raise UnsupRuleError(f"UnsupervisedRule.tasks is {tasks!r}; choose one of {', '.join(TASKS)}")


def prepared(function: Callable[..., Any], remat: str, tasks: str) -> Callable[..., Any]:
  """`function` of trees of arrays, to be run under `jax.vmap`, `lax.scan` and `jax.grad`.

  Args:
    function: pure; takes and returns trees of arrays.
    remat: "step" keeps only the arguments for the way back and computes the rest again; "none"
      keeps every intermediate value.
    tasks: under `jax.vmap`, "vmap" batches every operation; "map" runs one task after the other,
      whose values then fit the cache; "auto" batches, on a CPU no more tasks than are small
      enough together; "split" gives each of jax's devices a share of the tasks, to treat like
      that: fastest on idle cores, but cores that wait for each other at every step are slow on busy
      ones.
  """
  if tasks == "auto" and jax.default_backend() != "cpu":
    tasks = "vmap"
  if remat == "none":
    return function
  if tasks == "vmap":
    return jax.checkpoint(function, prevent_cse=False)
  batched = {"map": jax.custom_batching.sequential_vmap, "auto": in_chunks, "split": split}[tasks]

  @batched
  def forward(*arguments):
    return function(*arguments)

  @batched
  def backward(arguments, cotangents):
    return jax.vjp(function, *arguments)[1](cotangents)

  mapped = jax.custom_vjp(forward)
  mapped.defvjp(lambda *arguments: (forward(*arguments), arguments), backward)
  return mapped


def in_chunks(function: Callable[..., Any]) -> Callable[..., Any]:
  """`function`, of which `jax.vmap` batches as many tasks at once as `AT_ONCE` allows."""
  chunked = jax.custom_batching.custom_vmap(function)

  @chunked.def_vmap
  def run(n_tasks, is_batched, *arguments):
    out = _chunks(function, n_tasks, tuple(is_batched), arguments)
    return out, jax.tree.map(lambda _: True, out)

  return chunked


def split(function: Callable[..., Any]) -> Callable[..., Any]:
  """`function`, of which `jax.vmap` over N tasks runs N / devices on each device, in chunks.

  Where N is no multiple of the devices, the last task fills the gaps: its copies are cut off.
  """
  split_up = jax.custom_batching.custom_vmap(function)

  @split_up.def_vmap
  def run(n_tasks, is_batched, *arguments):
    devices = np.array(jax.devices())
    is_batched = tuple(is_batched)
    if n_tasks == 1:  # Nothing to split: its operations may have all cores.
      out = _chunks(function, 1, is_batched, arguments)
      return out, jax.tree.map(lambda _: True, out)
    share = -(-n_tasks // devices.size)
    if n_tasks % devices.size:
      rows = np.minimum(np.arange(share * devices.size), n_tasks - 1)
      arguments = jax.tree.map(lambda b, x: x[rows] if b else x, is_batched, arguments)
    out = jax.shard_map(
      lambda *arguments: _chunks(function, share, is_batched, arguments),
      mesh=Mesh(devices, _AXIS),
      in_specs=jax.tree.map(lambda b: PartitionSpec(_AXIS) if b else PartitionSpec(), is_batched),
      out_specs=PartitionSpec(_AXIS),
      check_vma=False,
    )(*arguments)
    return jax.tree.map(lambda x: x[:n_tasks], out), jax.tree.map(lambda _: True, out)

  return split_up


def _chunks(function, n_tasks: int, is_batched: Any, arguments: Any) -> Any:
  """`function` of all tasks: `is_batched` says which leaves of `arguments` lead with them."""
  flags, tree = jax.tree.flatten(is_batched)
  leaves = jax.tree.leaves(arguments)

  def one(own):
    own = iter(own)
    mixed = [next(own) if b else leaf for b, leaf in zip(flags, leaves, strict=True)]
    return function(*jax.tree.unflatten(tree, mixed))

  own = [leaf for b, leaf in zip(flags, leaves, strict=True) if b]
  most = AT_ONCE * n_tasks // sum(leaf.size for leaf in own)
  at_once = max(n for n in range(1, n_tasks + 1) if n_tasks % n == 0 and n <= max(most, 1))
  if 1 < at_once == n_tasks:
    return jax.vmap(one)(own)
  return jax.lax.map(one, own, batch_size=at_once if at_once > 1 else None)


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
  """`function` of trees of arrays; on a CPU a computation of its own, with which nothing is fused.

  Otherwise XLA:CPU fuses the slices that read what a loop has kept into the loops over its
  elements, which then run two to three times slower. Optimization barriers do not help: they are
  gone before fusion.
  """
  compiled = jax.jit(function)

  def call(*arguments):
    if jax.default_backend() != "cpu":
      return function(*arguments)
    return set_xla_metadata(compiled(*arguments), inlineable="false")

  return call


def gathered(tree: Any) -> Any:
  """`tree` with arrays that lie on several devices brought to the first, free to go anywhere.

  A program is compiled for where its arguments lie. Without this, what comes back from a split
  computation would have the next call compiled once more.
  """

  def gather(x):
    if not isinstance(x, jax.Array) or isinstance(x, Tracer):
      return x
    return jnp.asarray(np.asarray(x)) if len(x.sharding.device_set) > 1 else x

  return jax.tree.map(gather, tree)
