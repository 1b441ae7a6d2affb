"""Hinton's forward-forward algorithm without labels, and without knowledge of what inputs are.

Shape legend: R stacked layers of one shape, B examples, M units below, N units of a layer.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import gin
import jax
import jax.numpy as jnp

from unsup_rule.plugin.local.rule import LocalRule, checked, example_weights, inputs_of
from unsup_rule.rule.mlp import EPSILON, NONLINEARITIES, scan_or_call
from unsup_rule.rule.structures import Activations, Params, Weights

from learned_optimization.optimizers import base as opt_base  # isort: skip


class Pair(NamedTuple):
  """The same layer's inputs in both passes.

  Attributes:
    real_BxM: of the batch.
    mixed_BxM: of the negatives.
  """

  real_BxM: jax.Array
  mixed_BxM: jax.Array


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True, eq=False)
class ForwardForward(LocalRule):
  """Hinton 2022: each layer learns to tell real examples from mixtures by its mean squared output.

  A mixture takes each input from one of two random examples of the batch. Each layer descends on
  its own log loss, softplus(-s (G - t)) for real examples and softplus(s (G - t)) for mixtures,
  where G is the mean squared output, on inputs divided by their length so that a layer cannot read
  the goodness of the one below. Mixtures are normalised by the statistics of the real batch.

  Attributes:
    threshold: t, the goodness between both.
    sharpness: s.
    nonlinearity: of the base model, as activations do not say it.
  """

  learning_rate: float = 1e-3
  threshold: float = 0.5
  sharpness: float = 4.0
  nonlinearity: str = "relu"

  label: ClassVar[str] = "forward-forward"
  source: ClassVar[str] = "Hinton 2022"
  local_in: ClassVar[str] = (
    "both its units in a pass of real and one of mixed inputs, its unit's batch statistics, and the"
    " layer's goodness (one number an example)"
  )

  @property
  def inner(self) -> opt_base.Optimizer:
    """Adam, by default."""
    return self.inner_optimizer or opt_base.Adam(self.learning_rate)

  def change(self, params: Params, model_state: Activations | None, key: jax.Array) -> Params:
    """Minus the gradient of each layer's own loss."""
    activations = checked(model_state)
    weight_B = example_weights(activations)
    gradient = jax.grad(self.layer_loss, argnums=0)

    def layer(mixed_BxM: jax.Array, layer: tuple[Weights, jax.Array]):
      weights, real_BxM = layer
      below = Pair(real_BxM, mixed_BxM)
      out = self._outputs(weights, below, weight_B)
      descent = jax.tree.map(
        jnp.negative, gradient(weights, Pair(*map(_of_unit_rms, below)), weight_B)
      )
      return out.mixed_BxM, descent

    mixed, below, stacks = mixtures(key, activations.x_0), activations.x_0, []
    for weights, signals in zip(params.stacks, activations.stacks, strict=True):
      real_RxBxM = inputs_of(signals, below)
      mixed, change = scan_or_call(layer, mixed, (weights, real_RxBxM), len(signals.x))
      stacks.append(change)
      below = signals.x[-1]
    return Params(tuple(stacks))

  def layer_loss(self, weights: Weights, below: Pair, weight_B: jax.Array) -> jax.Array:
    """How badly the layer's goodness tells real from mixed, a scalar."""
    out = self._outputs(weights, below, weight_B)
    real_B, mixed_B = (
      self.sharpness * (jnp.mean(jnp.square(x_BxN), axis=1) - self.threshold) for x_BxN in out
    )
    return jnp.sum(weight_B * (jax.nn.softplus(-real_B) + jax.nn.softplus(mixed_B)))

  def _outputs(self, weights: Weights, below: Pair, weight_B: jax.Array) -> Pair:
    sums = Pair(*(x_BxM @ weights.w for x_BxM in below))
    mean_1xN = weight_B[None] @ sums.real_BxM
    variance_1xN = weight_B[None] @ jnp.square(sums.real_BxM - mean_1xN)
    scale_1xN = jax.lax.rsqrt(variance_1xN + EPSILON)
    phi = NONLINEARITIES[self.nonlinearity]
    return Pair(*(phi((s_BxN - mean_1xN) * scale_1xN + weights.b) for s_BxN in sums))


def mixtures(key: jax.Array, x_BxM: jax.Array) -> jax.Array:
  """Examples of which each input comes, by a coin, from one of two random examples."""
  mask_key, *order_keys = jax.random.split(key, 3)
  first, second = (jax.random.permutation(k, x_BxM) for k in order_keys)
  return jnp.where(jax.random.bernoulli(mask_key, 0.5, x_BxM.shape), first, second)


@functools.partial(jax.vmap)
def _of_unit_rms(x_M: jax.Array) -> jax.Array:
  return x_M * jax.lax.rsqrt(jnp.mean(jnp.square(x_M)) + EPSILON)
