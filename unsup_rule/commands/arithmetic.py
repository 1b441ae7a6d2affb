"""Counts the floating-point operations of a program's matrix products, without compiling it."""

import math
from collections.abc import Callable
from typing import Any

import jax


def matrix_operations(function: Callable, *arguments: Any) -> int:
  """Multiplications and additions in matrix products and convolutions of `function(*arguments)`.

  A scan counts as often as it runs, a choice of branches as its dearest one, a `while` once.

  Args:
    function: what jax can trace.
    *arguments: arrays, or their `jax.ShapeDtypeStruct`.
  """
  return _operations(jax.make_jaxpr(function)(*arguments).jaxpr)


def _operations(jaxpr: Any) -> int:
  total = 0
  for equation in jaxpr.eqns:
    inner = [_operations(one) for value in equation.params.values() for one in _jaxprs(value)]
    name = equation.primitive.name
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      terms = math.prod(left[axis] for axis in contracted)
      total += 2 * math.prod(equation.outvars[0].aval.shape) * terms
    elif name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      out_axis = equation.params["dimension_numbers"].rhs_spec[0]
      out = math.prod(equation.outvars[0].aval.shape)
      total += 2 * out * math.prod(kernel) // kernel[out_axis]
    elif name == "scan":
      total += equation.params["length"] * sum(inner)
    elif name == "cond":
      total += max(inner)
    else:
      total += sum(inner)
  return total


def _jaxprs(value: Any) -> list[Any]:
  """The programs within a parameter of an equation."""
  if isinstance(value, (tuple, list)):
    return [one for item in value for one in _jaxprs(item)]
  value = getattr(value, "jaxpr", value)
  return [value] if hasattr(value, "eqns") else []
