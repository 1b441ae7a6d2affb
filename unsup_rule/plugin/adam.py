"""Adam for theta: a step size of its own for the mixing coefficients, a schedule, an average."""

from typing import NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax

from unsup_rule.compat.optimizers import OptaxOptimizer
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.theta import COEFFICIENTS


@gin.configurable(module="unsup_rule")
class RuleAdam(OptaxOptimizer):
  """Adam [Kingma & Ba 2015] on theta: the coefficients c of eq. 4.5 move at their own rate.

  The twelve coefficients decide which terms the rule is made of. They are of order 1 where the
  networks' weights are of order 0.1, and Adam's steps do not depend on a gradient's size, so one
  step size for both either shakes the networks or leaves the mixture nearly where it began.

  Args:
    learning_rate: largest step size of the networks.
    coefficient_learning_rate: largest step size of the mixing coefficients.
    beta1: decay of the mean gradient.
    beta2: decay of the mean squared gradient.
    warmup_steps: updates in which the step sizes grow to the largest, in equal parts.
    decay_steps: updates, those of the warm-up included, after which step sizes have fallen along a
      cosine to `final_fraction` of the largest, where they stay; 0 for never.
    final_fraction: see above.
    averaging: decay of the exponential moving average of theta, which a run is measured by and
      leaves behind in place of theta itself; 0 for none. Over the first updates it averages less.
  """

  def __init__(
    self,
    learning_rate: float = 1e-3,
    coefficient_learning_rate: float = 1e-2,
    beta1: float = 0.9,
    beta2: float = 0.999,
    warmup_steps: int = 0,
    decay_steps: int = 0,
    final_fraction: float = 0.0,
    averaging: float = 0.0,
  ):
    for name, value in (
      ("learning_rate", learning_rate),
      ("coefficient_learning_rate", coefficient_learning_rate),
      ("warmup_steps", warmup_steps),
      ("decay_steps", decay_steps),
      ("final_fraction", final_fraction),
    ):
      if value < 0:
        raise UnsupRuleError(f"RuleAdam.{name} is {value}; give 0 or more")
    for name, value in (("beta1", beta1), ("beta2", beta2), ("averaging", averaging)):
      if not 0 <= value < 1:
        raise UnsupRuleError(f"RuleAdam.{name} is {value}; give a number from 0 to below 1")
    if decay_steps and decay_steps <= warmup_steps:
      raise UnsupRuleError(
        f"RuleAdam.decay_steps is {decay_steps}; give more than the {warmup_steps} of warmup_steps"
      )
    self.learning_rate = learning_rate
    self.coefficient_learning_rate = coefficient_learning_rate

    def adam(rate: float) -> optax.GradientTransformation:
      scheduled = schedule(rate, warmup_steps, decay_steps, final_fraction)
      return optax.adam(scheduled, b1=beta1, b2=beta2)

    updates = optax.multi_transform(
      {"networks": adam(learning_rate), "coefficients": adam(coefficient_learning_rate)}, _groups
    )
    super().__init__(optax.chain(updates, averaged(averaging)) if averaging else updates)

  @property
  def name(self) -> str:
    return f"RuleAdam_lr{self.learning_rate}_coefficients{self.coefficient_learning_rate}"


def schedule(
  rate: float, warmup_steps: int, decay_steps: int, final_fraction: float
) -> float | optax.Schedule:
  """The step size of each update, as `RuleAdam` describes it; a number where it never changes."""
  if not warmup_steps and not decay_steps:
    return rate
  first = rate / (warmup_steps + 1)
  grows = optax.linear_schedule(first, rate, warmup_steps) if warmup_steps else None
  stays = (
    optax.cosine_decay_schedule(rate, decay_steps - warmup_steps, final_fraction)
    if decay_steps
    else optax.constant_schedule(rate)
  )
  return stays if grows is None else optax.join_schedules([grows, stays], [warmup_steps])


class Average(NamedTuple):
  """State of `averaged`.

  Attributes:
    theta: the average.
    count: updates so far.
  """

  theta: optax.Params
  count: jax.Array


def averaged(decay: float) -> optax.GradientTransformation:
  """Keeps an exponential moving average of what is optimised, and leaves updates as they are.

  The decay of update t is at most (1 + t) / (10 + t), so that the start is soon forgotten.
  """

  def init(theta: optax.Params) -> Average:
    return Average(jax.tree.map(jnp.asarray, theta), jnp.zeros((), jnp.int32))

  def update(
    updates: optax.Updates, state: Average, theta: optax.Params | None = None
  ) -> tuple[optax.Updates, Average]:
    assert theta is not None
    keep = jnp.minimum(decay, (1 + state.count) / (10 + state.count))
    new = optax.apply_updates(theta, updates)
    average = jax.tree.map(lambda a, t: keep * a + (1 - keep) * t, state.theta, new)
    return updates, Average(average, state.count + 1)

  return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def average_of(optimizer_state: object) -> optax.Params | None:
  """The average that an optimizer's state holds somewhere, or None."""

  def is_average(node: object) -> bool:
    return isinstance(node, Average)

  nodes = jax.tree.leaves(optimizer_state, is_leaf=is_average)
  return next((node.theta for node in nodes if is_average(node)), None)


def _groups(theta: optax.Params) -> optax.Params:
  """Returns a tree like theta's of the names of the groups."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: (
      "coefficients"
      if any(str(getattr(key, "key", "")).endswith(COEFFICIENTS) for key in path)
      else "networks"
    ),
    theta,
  )
