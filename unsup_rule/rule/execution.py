"""How an application of the rule is run: what is kept for the way back, and how tasks are batched.

Neither changes a number. Both are chosen by measurement, see docs/performance.md.
"""

from collections.abc import Callable
from typing import Any

import jax

from unsup_rule.errors import UnsupRuleError

REMAT = ("step", "none")
TASKS = ("auto", "map", "vmap")


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
    tasks: under `jax.vmap`, "vmap" batches every operation, "map" runs one task after the other,
      whose values then fit the cache; "auto" maps on a CPU.
  """
  if tasks == "auto":
    tasks = "map" if jax.default_backend() == "cpu" else "vmap"
  if remat == "none":
    return function
  if tasks == "vmap":
    return jax.checkpoint(function, prevent_cse=False)
  one_by_one = jax.custom_batching.sequential_vmap

  @one_by_one
  def forward(*arguments):
    return function(*arguments)

  @one_by_one
  def backward(arguments, cotangents):
    return jax.vjp(function, *arguments)[1](cotangents)

  mapped = jax.custom_vjp(forward)
  mapped.defvjp(lambda *arguments: (forward(*arguments), arguments), backward)
  return mapped
