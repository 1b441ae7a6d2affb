"""What a rule's steps are beside theta: their size, where biases rest, the order of the inputs.

All are additions of this package (docs/rule.md, section 4.6), off by default.
"""

import ast
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.structures import Params


@dataclasses.dataclass(frozen=True)
class InnerSchedule:
  """How changes are applied; lr_t = learning_rate / (1 + t / decay_steps)^decay_power, t = 0, ..

  The authors' program keeps lr constant. A power above 1 bounds the sum of all steps, by
  learning_rate decay_steps / (power - 1): the base model settles, however long the rule runs.

  Attributes:
    learning_rate: lr of the first step.
    decay_steps: steps after which lr is (1/2)^decay_power of that; None for a constant lr.
    decay_power: how fast it falls from there.
    hidden_bias: value towards which biases of hidden layers decay, where the nonlinearity does not
      saturate above.
    embedding_bias: the same of the last layer; a large one makes the embedding linear.
    shuffle_inputs: show the rule its inputs in a random order, in each step another, so that it
      cannot tell neighbours.
  """

  learning_rate: float = 1e-4
  decay_steps: float | None = None
  decay_power: float = 2.0
  hidden_bias: float = 0.0
  embedding_bias: float = 0.0
  shuffle_inputs: bool = False

  def __post_init__(self):
    for name in ("learning_rate", "decay_steps", "decay_power"):
      value = getattr(self, name)
      if name == "decay_steps" and value is None:
        continue
      if not _real(value) or not value > 0:
        raise UnsupRuleError(f"UnsupervisedRule.{name} is {value!r}; give a positive number")
    for name in ("hidden_bias", "embedding_bias"):
      value = getattr(self, name)
      if not _real(value):
        raise UnsupRuleError(f"UnsupervisedRule.{name} is {value!r}; give a finite number")
    if not isinstance(self.shuffle_inputs, bool):
      raise UnsupRuleError(
        f"UnsupervisedRule.shuffle_inputs is {self.shuffle_inputs!r}; give True or False"
      )

  def rate(self, step: jax.Array | int) -> jax.Array | float:
    """lr_t, a scalar (eq. 4.18)."""
    if self.decay_steps is None:
      return self.learning_rate
    age = jnp.asarray(step, jnp.float32) / self.decay_steps
    return self.learning_rate * (1 + age) ** -jnp.float32(self.decay_power)

  def with_rest(self, change: Params, slope: float) -> Params:
    """The change less the resting biases, so that (1 - lr) b - lr change decays to them (4.19).

    Args:
      change: of {W, b, V}.
      slope: of the nonlinearity far above 0; one that saturates there keeps rest 0.
    """
    if not (self.hidden_bias or self.embedding_bias):
      return change
    stacks = []
    for stack in change.stacks:
      rest_R = np.full(len(stack.b), slope * self.hidden_bias, np.float32)
      if stack is change.stacks[-1]:
        rest_R[-1] = slope * self.embedding_bias
      stacks.append(stack._replace(b=stack.b - rest_R[:, None]))
    return Params(tuple(stacks))


def order_of_step(step: jax.Array | int, n_inputs: int) -> jax.Array:
  """A random order of the inputs, [n_0], for each step another; the same for all base models."""
  return jax.random.permutation(jax.random.fold_in(jax.random.PRNGKey(0), step), n_inputs)


def read_setting(text: str) -> Any:
  """The value that `text` writes of an attribute of `InnerSchedule`; a whole number is a float.

  Raises:
    ValueError, SyntaxError: it is no plain value.
  """
  value = ast.literal_eval(text)
  return float(value) if type(value) is int else value


def _real(value: object) -> bool:
  if not isinstance(value, (int, float)) or isinstance(value, bool):
    return False
  return math.isfinite(value)
