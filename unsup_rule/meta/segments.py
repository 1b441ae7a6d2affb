"""Back-propagation through a truncation in segments, with memory that grows as its square root.

Only the inner state at the start of each segment is kept; a segment's steps are computed again on
the way back (Chen et al., 2016, "Training deep nets with sublinear memory cost").
"""

import math
import types
from typing import Any

import jax
from learned_optimization.outer_trainers import common
from learned_optimization.outer_trainers import truncated_grad as library_grad

from unsup_rule import compat
from unsup_rule.meta.shares import THETA, replaced

# Position of the length among the arguments of the library's `truncated_unroll`.
_LENGTH = 1 if compat.IS_HEAD else 4


class SegmentedGrad(library_grad.TruncatedGrad):
  """`TruncatedGrad` with rematerialised segments of `steps_per_jit` inner steps.

  Summaries, if asked for, are those of the last segment.
  """

  def __init__(self, *arguments: Any, unroll_length: int, steps_per_jit: int, **options: Any):
    super().__init__(
      *arguments, unroll_length=unroll_length, steps_per_jit=unroll_length, **options
    )
    self.segment = steps_per_jit

  def compute_gradient_estimate(self, *arguments: Any, **options: Any) -> Any:
    """One estimate; see the library's class."""

    def unroll(*arguments, **options):
      return _in_segments(self.segment, arguments, options)

    # The library's method looks up `common.truncated_unroll` when it is called.
    with replaced(library_grad, common=types.SimpleNamespace(truncated_unroll=unroll)):
      return super().compute_gradient_estimate(*arguments, **options)


def _in_segments(segment: int, arguments: tuple, options: dict[str, Any]) -> Any:
  """The library's `truncated_unroll`, as a scan over segments of its own scan over steps."""
  static = list(arguments[:THETA])
  theta, key, state, datas, *others = arguments[THETA:]
  n_segments = static[_LENGTH] // segment
  static[_LENGTH] = segment

  @jax.checkpoint
  def one(theta, state, key, datas):
    unrolled = common.truncated_unroll(*static, theta, key, state, datas, *others, **options)
    (state, outs), metrics = unrolled
    return state, (outs, metrics)

  datas = jax.tree_util.tree_map(lambda x: x.reshape(n_segments, segment, *x.shape[1:]), datas)
  state, (outs, metrics) = jax.lax.scan(
    lambda state, inputs: one(theta, state, *inputs),
    state,
    (jax.random.split(key, n_segments), datas),
  )
  outs = jax.tree_util.tree_map(lambda x: x.reshape(-1, *x.shape[2:]), outs)
  return (state, outs), jax.tree_util.tree_map(lambda x: x[-1], metrics)


def segment_of(length: int) -> int:
  """The divisor of a truncation's length that is nearest to its square root."""
  divisors = [d for d in range(1, length + 1) if length % d == 0]
  return min(divisors, key=lambda d: abs(math.log(d) - math.log(length) / 2))
