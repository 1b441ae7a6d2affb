"""What a program needs at least: arithmetic and memory traffic of its products."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax


class Need(NamedTuple):
  """Of one run of a program.

  Attributes:
    operations: multiplications and additions in matrix products.
    bytes: each product reads its operands and writes its result once.
  """

  operations: int
  bytes: int


def needs(function: Callable, *arguments: object) -> Need:
  """Counts without compiling. A scan counts as often as it runs, of branches the dearest.

  Args:
    function: what jax can trace.
    *arguments: arrays, or their `jax.ShapeDtypeStruct`.
  """
  return _needs(jax.make_jaxpr(function)(*arguments).jaxpr)


def _needs(jaxpr: Any) -> Need:
  total = Need(0, 0)
  for equation in jaxpr.eqns:
    inner = [_needs(one) for value in equation.params.values() for one in _jaxprs(value)]
    name = equation.primitive.name
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      out = equation.outvars[0].aval
      operations = 2 * math.prod(out.shape) * math.prod(left[axis] for axis in contracted)
      moved = [*(v.aval for v in equation.invars), out]
      inner = [Need(operations, sum(a.size * a.dtype.itemsize for a in moved))]
    elif name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      out_axis = equation.params["dimension_numbers"].rhs_spec[0]
      out = equation.outvars[0].aval
      moved = [*(v.aval for v in equation.invars), out]
      operations = 2 * math.prod(out.shape) * math.prod(kernel) // kernel[out_axis]
      inner = [Need(operations, sum(a.size * a.dtype.itemsize for a in moved))]
    elif name == "scan":
      inner = [Need(*(equation.params["length"] * n for n in need)) for need in inner]
    elif name == "cond":
      inner = [max(inner)]
    total = Need(*(sum(column) for column in zip(total, *inner, strict=True)))
  return total


def _jaxprs(value: Any) -> Iterator[Any]:
  """The programs within a parameter of an equation."""
  if isinstance(value, (tuple, list)):
    for item in value:
      yield from _jaxprs(item)
  else:
    value = getattr(value, "jaxpr", value)
    if hasattr(value, "eqns"):
      yield value
