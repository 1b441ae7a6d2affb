"""Step size of the rule over inner time (docs/rule.md, eq. 4.18)."""

import dataclasses

import jax
import jax.numpy as jnp

from unsup_rule.errors import UnsupRuleError


@dataclasses.dataclass(frozen=True)
class StepSize:
  """lr_t = learning_rate / (1 + t / decay_steps)^decay_power, t = 0, 1, ...

  The authors' program keeps lr constant. A power above 1 bounds the sum of all steps, by
  learning_rate decay_steps / (power - 1): the base model settles, however long the rule runs.

  Attributes:
    learning_rate: lr of the first step.
    decay_steps: steps after which lr is (1/2)^decay_power of that; None for a constant lr.
    decay_power: how fast it falls from there.
  """

  learning_rate: float = 1e-4
  decay_steps: float | None = None
  decay_power: float = 2.0

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if name == "decay_steps" and value is None:
        continue
      if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UnsupRuleError(f"UnsupervisedRule.{name} is {value!r}; give a positive number")

  def __call__(self, step: jax.Array) -> jax.Array | float:
    """lr_t, a scalar."""
    if self.decay_steps is None:
      return self.learning_rate
    return self.learning_rate * (1 + step / self.decay_steps) ** -jnp.float32(self.decay_power)
