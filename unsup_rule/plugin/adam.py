"""Adam for theta, with a step size of its own for the mixing coefficients."""

from typing import Any

import gin
import jax
import optax

from unsup_rule.compat.optimizers import OptaxOptimizer
from unsup_rule.rule.theta import COEFFICIENTS


@gin.configurable(module="unsup_rule")
class RuleAdam(OptaxOptimizer):
  """Adam [Kingma & Ba 2015] on theta: the coefficients c of eq. 4.5 move at their own rate.

  The twelve coefficients decide which terms the rule is made of. They are of order 1 where the
  networks' weights are of order 0.1, and Adam's steps do not depend on a gradient's size, so one
  step size for both either shakes the networks or leaves the mixture nearly where it began.
  """

  def __init__(
    self,
    learning_rate: float = 1e-3,
    coefficient_learning_rate: float = 1e-2,
    beta1: float = 0.9,
    beta2: float = 0.999,
  ):
    """Sets the step sizes of the networks and of the mixing coefficients, and Adam's decays."""
    self.learning_rate = learning_rate
    self.coefficient_learning_rate = coefficient_learning_rate

    def adam(rate: float) -> optax.GradientTransformation:
      return optax.adam(rate, b1=beta1, b2=beta2)

    super().__init__(
      optax.multi_transform(
        {"networks": adam(learning_rate), "coefficients": adam(coefficient_learning_rate)},
        _groups,
      )
    )

  @property
  def name(self) -> str:
    return f"RuleAdam_lr{self.learning_rate}_coefficients{self.coefficient_learning_rate}"


def _groups(theta: Any) -> Any:
  """Returns a tree like theta's of the names of the groups."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: (
      "coefficients"
      if any(str(getattr(key, "key", "")).endswith(COEFFICIENTS) for key in path)
      else "networks"
    ),
    theta,
  )
