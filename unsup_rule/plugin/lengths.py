"""How many inner steps a task lasts: sampled, with tasks at all ages from the start."""

from typing import Any

import gin
import jax
import jax.numpy as jnp

from unsup_rule import compat  # noqa: F401  (first: makes the library importable)
from unsup_rule.errors import UnsupRuleError

from learned_optimization.outer_trainers import truncation_schedule  # isort: skip


# The library's state; its dataclass decorator hides the fields from type checkers.
_State: Any = truncation_schedule.ConstantTruncationState


@gin.configurable(module="unsup_rule")
class EpisodeLengths(truncation_schedule.TruncationSchedule):
  """Log-uniform numbers of inner steps, staggered.

  The library's `LogUniformLengthSchedule` starts all tasks of an estimator at once, and its
  `random_initial_iteration_offset` is one number for lengths that differ: most short tasks begin
  beyond their end. Here a first episode lasts what is left of one that is met at a random moment,
  so that from then on as many tasks begin and end at one step as at any other.

  Args:
    min_length: inner steps of the shortest episode.
    max_length: inner steps of the longest.
    staggered: whether first episodes are cut short as above.
  """

  def __init__(self, min_length: int, max_length: int, staggered: bool = True):
    if not 1 <= min_length <= max_length:
      raise UnsupRuleError(
        f"EpisodeLengths from {min_length} to {max_length}: give 1 <= min_length <= max_length"
      )
    self._min_length = min_length
    self._max_length = max_length
    self._staggered = staggered

  def init(self, key: jax.Array, outer_state: Any) -> Any:
    """The length of a task's first episode."""
    if not self._staggered:
      return _State(length=self._draw(key))
    # Episodes are met in proportion to their length, which makes uniform of log-uniform.
    length_key, left_key = jax.random.split(key)
    span = (self._max_length + 1 - self._min_length) * jax.random.uniform(length_key)
    length = jnp.floor(self._min_length + span)
    left = 1 + jnp.floor(length * jax.random.uniform(left_key))
    return _State(length=jnp.minimum(left.astype(jnp.int32), self._max_length))

  def next_state(
    self,
    state: Any,
    step: jax.Array,
    key: jax.Array,
    outer_state: Any,
  ) -> tuple[Any, jax.Array]:
    """Whether the episode is over after `step` inner steps; if so, with the length of the next."""
    is_done = step >= state.length
    length = jnp.where(is_done, self._draw(key), state.length)
    return _State(length=length), is_done

  def _draw(self, key: jax.Array) -> jax.Array:
    low, high = jnp.log(float(self._min_length)), jnp.log(self._max_length + 1.0)
    length = jnp.exp(low + (high - low) * jax.random.uniform(key))
    # exp(log(n)) may round to just below n.
    return jnp.clip(length.astype(jnp.int32), self._min_length, self._max_length)
