"""Back-propagation through a truncation in segments, with memory that grows as its square root.

Only the inner state at the start of each segment is kept; a segment's steps are computed again on
the backward pass (Chen et al., 2016, "Training deep nets with sublinear memory cost").
"""

import math
from typing import Any

import jax
from learned_optimization import training
from learned_optimization.outer_trainers import common, gradient_learner
from learned_optimization.outer_trainers import truncated_grad as library_grad

from unsup_rule import compat
from unsup_rule.compat import library
from unsup_rule.meta.groups import step_of


class SegmentedGrad(library_grad.TruncatedGrad):
  """`TruncatedGrad` with rematerialised segments of `steps_per_jit` inner steps, no summaries."""

  def __init__(self, *arguments: Any, unroll_length: int, steps_per_jit: int, **options: Any):
    super().__init__(
      *arguments, unroll_length=unroll_length, steps_per_jit=unroll_length, **options
    )
    self.segment = steps_per_jit

  def compute_gradient_estimate(
    self,
    worker_weights: Any,
    key: jax.Array,
    state: Any,
    with_summary: bool = False,
    datas_list: Any = None,
  ) -> tuple[gradient_learner.GradientEstimatorOut, dict[str, jax.Array]]:
    """One estimate; see the library's class."""
    del with_summary
    n_segments = self.unroll_length // self.segment
    batches = self._batches() if datas_list is None else datas_list[0]
    batches = jax.tree.map(lambda x: x.reshape(n_segments, self.segment, *x.shape[1:]), batches)
    unroll = jax.checkpoint(self._unroll)

    def meta_loss(theta):
      def segment(state, inputs):
        return unroll(theta, inputs[0], state, inputs[1], worker_weights.outer_state)

      keys = jax.random.split(key, n_segments)
      last, outs = jax.lax.scan(segment, state, (keys, batches))
      outs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outs)
      return self._mean_loss(outs), (last, outs)

    value_and_gradient = jax.value_and_grad(meta_loss, has_aux=True)
    (loss, (last, outs)), gradient = value_and_gradient(worker_weights.theta)
    info = library.make(
      gradient_learner.UnrollInfo,
      loss=outs.loss,
      iteration=outs.iteration,
      task_param=outs.task_param,
      is_done=outs.is_done,
    )
    return library.make(
      gradient_learner.GradientEstimatorOut,
      mean_loss=loss,
      grad=gradient,
      unroll_state=last,
      unroll_info=info,
    ), {}

  def _batches(self) -> Any:
    """Batches of all steps; nothing where tasks draw their own."""
    if compat.IS_HEAD:
      return step_of(self).get_batch(self.unroll_length)
    shape = (self.unroll_length, self.num_tasks)
    return training.get_batches(self.task_family, shape, self.train_and_meta, numpy=False)

  def _unroll(self, *arguments: Any) -> tuple[Any, Any]:
    """The library's unroll of a segment: (theta, key, state, batches, ..) -> (state, outs)."""
    if compat.IS_HEAD:
      static = (step_of(self), self.segment, False)
    else:
      first = (self.task_family, self.learned_opt, self.trunc_sched, self.num_tasks)
      static = (*first, self.segment, self.train_and_meta, False, False)
    return common.truncated_unroll(*static, *arguments, with_summary=False)[0]

  def _mean_loss(self, outs: Any) -> jax.Array:
    """The meta-loss as `TruncatedGrad` takes it: HEAD leaves out steps that begin a task."""
    if compat.IS_HEAD:
      return ((outs.mask * outs.loss).sum(axis=0) / outs.mask.sum(axis=0)).mean()
    return outs.loss.mean()


def segment_of(length: int) -> int:
  """The divisor of a truncation's length that is nearest to its square root."""
  divisors = [d for d in range(1, length + 1) if length % d == 0]
  return min(divisors, key=lambda d: abs(math.log(d) - math.log(length) / 2))
