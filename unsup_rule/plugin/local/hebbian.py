"""Rules in which units of a layer compete, or take turns, for what the layer below says.

Shape legend: B examples, M units below, N units of a layer.
"""

import dataclasses
from typing import ClassVar

import gin
import jax
import jax.numpy as jnp

from unsup_rule.plugin.local.rule import LayerBatch, LocalRule, of_w
from unsup_rule.rule.structures import Params, Weights

_TINY = 1e-8


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True, eq=False)
class Sanger(LocalRule):
  """Sanger 1989, the generalised Hebbian algorithm: dw_j = y_j (x - sum_{k <= j} y_k w_k), y = x W.

  Columns converge to the leading eigenvectors of the inputs' covariance, in order. Inputs are
  centred by their batch mean and divided by the root of their mean squared length, so that the
  learning rate means the same in every layer; y is linear, before normalisation.

  Attributes:
    ordered: whether unit j subtracts what units up to j explain; else what all units explain,
      which is Oja's subspace rule (1989) and finds the same subspace in no particular order.
  """

  learning_rate: float = 0.03
  ordered: bool = True

  label: ClassVar[str] = "Sanger's rule"
  source: ClassVar[str] = "Oja 1982; Sanger 1989"
  local_in: ClassVar[str] = (
    "both its units, and the reconstruction of its input by the units before its own"
  )

  def layer_change(self, weights: Weights, layer: LayerBatch, key: jax.Array) -> Weights:
    """dW = X^T Y - W triu(Y^T Y), in means over the batch."""
    x_BxM = of_unit_length(centred(layer), layer.weight_B)
    y_BxN = x_BxM @ weights.w
    weighted_BxN = layer.weight_B[:, None] * y_BxN
    explained_NxN = y_BxN.T @ weighted_BxN
    if self.ordered:
      explained_NxN = jnp.triu(explained_NxN)
    return of_w(weights, x_BxM.T @ weighted_BxN - weights.w @ explained_NxN)


@dataclasses.dataclass(frozen=True, eq=False)
class _Competitive(LocalRule):
  """Units compete on equal terms from the start: columns are brought to |w|_p = 1.

  The base model normalises each unit, so that what it computes is the same as before.
  """

  p: float = 2.0

  def init(self, params, model_state=None, num_steps=None, key=None):
    """The inner optimizer's state, of scaled columns."""
    stacks = tuple(
      weights._replace(w=weights.w / jnp.linalg.norm(weights.w, self.p, axis=-2, keepdims=True))
      for weights in params.stacks
    )
    return super().init(Params(stacks), model_state, num_steps, key)


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True, eq=False)
class KrotovHopfield(_Competitive):
  """Krotov and Hopfield 2019: the strongest unit learns, the k-th strongest unlearns.

  With I = sum_i sign(w_i) |w_i|^(p - 1) x_i: dw = g (x - I w), g = 1 for the strongest I, -delta
  for the k-th and 0 for others; each layer's change is divided by its largest entry. Weights start
  at |w|_p = 1 and return to it. Inputs are scaled as for `Sanger`.

  Attributes:
    p: of the norm.
    k: rank of the unit that unlearns.
    delta: how much it does.
  """

  learning_rate: float = 0.02
  k: int = 2
  delta: float = 0.4

  label: ClassVar[str] = "Krotov-Hopfield"
  source: ClassVar[str] = "Krotov and Hopfield 2019"
  local_in: ClassVar[str] = (
    "both its units, and its unit's rank in the layer (the step also the layer's largest change)"
  )

  def layer_change(self, weights: Weights, layer: LayerBatch, key: jax.Array) -> Weights:
    """dW = X^T G - W diag(sum_b G I), divided by its largest entry."""
    x_BxM = of_unit_length(centred(layer), layer.weight_B)
    current_BxN = x_BxM @ (jnp.sign(weights.w) * jnp.abs(weights.w) ** (self.p - 1))
    _, order_BxK = jax.lax.top_k(current_BxN, min(self.k, current_BxN.shape[1]))
    n = current_BxN.shape[1]
    g_BxN = jax.nn.one_hot(order_BxK[:, 0], n)
    if order_BxK.shape[1] > 1:
      g_BxN -= self.delta * jax.nn.one_hot(order_BxK[:, -1], n)
    g_BxN *= layer.weight_B[:, None]
    change_MxN = x_BxM.T @ g_BxN - weights.w * jnp.sum(g_BxN * current_BxN, axis=0)
    return of_w(weights, change_MxN / jnp.maximum(jnp.max(jnp.abs(change_MxN)), _TINY))


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True, eq=False)
class SoftHebb(_Competitive):
  """Moraitis et al. 2022; Journé et al. 2023: Hebbian plasticity under a soft winner-take-all.

  With u = x W and y = softmax(sharpness u): dw_j = y_j (x - u_j w_j), for inputs that are centred
  by their batch mean and of unit length. Columns start and stay near unit length.

  Attributes:
    sharpness: inverse temperature of the softmax.
    anti_hebbian: whether all units but the strongest unlearn instead, as in Journé et al.
  """

  learning_rate: float = 0.5
  sharpness: float = 30.0
  anti_hebbian: bool = False

  label: ClassVar[str] = "SoftHebb"
  source: ClassVar[str] = "Moraitis et al. 2022; Journé et al. 2023"
  local_in: ClassVar[str] = (
    "both its units, its input's mean and length, and the layer's inhibition (one sum)"
  )

  def layer_change(self, weights: Weights, layer: LayerBatch, key: jax.Array) -> Weights:
    """dW = X^T Y - W diag(sum_b Y U), in means over the batch."""
    x_BxM = centred(layer)
    x_BxM /= jnp.maximum(jnp.linalg.norm(x_BxM, axis=1, keepdims=True), _TINY)
    u_BxN = x_BxM @ weights.w
    y_BxN = jax.nn.softmax(self.sharpness * u_BxN, axis=1)
    if self.anti_hebbian:
      winner_BxN = jax.nn.one_hot(jnp.argmax(u_BxN, axis=1), u_BxN.shape[1])
      y_BxN *= 2 * winner_BxN - 1
    y_BxN *= layer.weight_B[:, None]
    change_MxN = x_BxM.T @ y_BxN - weights.w * jnp.sum(y_BxN * u_BxN, axis=0)
    return of_w(weights, change_MxN)


def centred(layer: LayerBatch) -> jax.Array:
  """Inputs of the layer less their batch mean, which normalisation takes away too, [B, M]."""
  return layer.below_BxM - layer.weight_B[None] @ layer.below_BxM


def of_unit_length(x_BxM: jax.Array, weight_B: jax.Array) -> jax.Array:
  """x / root of its mean squared length."""
  squared = jnp.sum(weight_B * jnp.sum(jnp.square(x_BxM), axis=1))
  return x_BxM * jax.lax.rsqrt(jnp.maximum(squared, _TINY))
