"""How a step of the rule is run: what is kept for the backward pass, how tasks are batched, what
XLA may fuse, from which size on layers are scanned.

None changes a number by more than rounding. All are chosen by measurement on CPUs, see
docs/performance.md; `on_cpu` is the one place that asks where a program runs.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from unsup_rule.errors import UnsupRuleError

REMAT = ("step", "none")
TASK_BATCHING = ("auto", "map", "vmap")
# Layers of a width group up to which they are unrolled: a tenth faster than a scan, which has to
# store what it keeps for the backward pass; with more of them compilation would take longer.
UNROLLED = 4
# Entries of a stack's matrices up to which all are changed at once. That is no faster than one by
# one but compiled once; each entry takes some 100 bytes then, for twelve terms.
CHANGED_AT_ONCE = 2**20
# Entries of the arguments of tasks that are batched on a CPU: theta, inner state and batch. Small
# operations cost more than their arithmetic, but large values had better stay in the cache.
AT_ONCE = 2**18


def on_cpu() -> bool:
  """Whether programs run on a CPU."""
  return jax.default_backend() == "cpu"


def check(remat: str, task_batching: str) -> None:
  """Raises if a name is unknown."""
  if remat not in REMAT:
    raise UnsupRuleError(f"UnsupervisedRule.remat is {remat!r}; choose one of {', '.join(REMAT)}")
  if task_batching not in TASK_BATCHING:
    raise UnsupRuleError(
      f"UnsupervisedRule.task_batching is {task_batching!r}; "
      f"choose one of {', '.join(TASK_BATCHING)}"
    )


def prepared(function: Callable[..., Any], remat: str, task_batching: str) -> Callable[..., Any]:
  """`function` of trees of arrays, to be run under `jax.vmap`, `lax.scan` and `jax.grad`.

  Args:
    function: pure; takes and returns trees of arrays.
    remat: "step" keeps only the arguments for the backward pass and computes the rest again; "none"
      keeps every intermediate value.
    task_batching: under `jax.vmap`, "vmap" batches every operation; "map" runs one task after the
      other, whose values then fit the cache; "auto" batches, on a CPU no more tasks than are small
      enough together.
  """
  if task_batching == "auto" and not on_cpu():
    task_batching = "vmap"
  if remat == "none":
    return function
  if task_batching == "vmap":
    return jax.checkpoint(function, prevent_cse=False)
  batched = {"map": jax.custom_batching.sequential_vmap, "auto": in_chunks}[task_batching]

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


def largest_divisor(n: int, at_most: int) -> int:
  """The largest divisor of `n` that is no larger than `at_most`, which is at least 1."""
  return max(d for d in range(1, min(n, at_most) + 1) if n % d == 0)


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
  at_once = largest_divisor(n_tasks, max(most, 1))
  if 1 < at_once == n_tasks:
    return jax.vmap(one)(own)
  return jax.lax.map(one, own, batch_size=at_once if at_once > 1 else None)


def no_fuse(function: Callable[..., Any]) -> Callable[..., Any]:
  """`function` of trees of arrays; on a CPU a computation of its own, with which nothing is fused.

  Otherwise XLA:CPU fuses the slices that read what a loop has kept into the loops over its
  elements, which then run two to three times slower. Optimization barriers do not help: they are
  gone before fusion.
  """
  compiled = jax.jit(function)

  def call(*arguments):
    if not on_cpu():
      return function(*arguments)
    return set_xla_metadata(compiled(*arguments), inlineable="false")

  return call


def solve(a_NxN: jax.Array, b_NxY: jax.Array) -> jax.Array:
  """The solution of a symmetric, positive system, alone or of each task.

  On a CPU one task's after the other: jax solves a batch on its pool of threads and waits for
  them, for ever if all threads of the pool are busy with groups of tasks that wait too.
  """
  return _solve_in_turn(a_NxN, b_NxY) if on_cpu() else _solve(a_NxN, b_NxY)


def _solve(a_NxN: jax.Array, b_NxY: jax.Array) -> jax.Array:
  return jax.scipy.linalg.solve(a_NxN, b_NxY, assume_a="pos")


_solve_in_turn = jax.custom_batching.sequential_vmap(_solve)
