"""The base model with its normalisation frozen: a plain MLP, each row embedded by itself.

In training every layer is normalised with the statistics of the batch at hand, so that a row's
embedding depends on its neighbours. Here the statistics of a fixed set of rows are folded into
weights and offsets.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unsup_rule.rule.mlp import EPSILON, MLP, NONLINEARITIES, batch_mean, scan_or_call
from unsup_rule.rule.outputs import Centred, side_by_side
from unsup_rule.rule.structures import Params


class Affine(NamedTuple):
  """Stacked layers x_l = nonlinearity(x_{l-1} w + b)."""

  w: jax.Array  # [R, M, N]
  b: jax.Array  # [R, N]


Network = tuple[Affine, ...]


def freeze(mlp: MLP, params: Params, x_BxN: jax.Array, mask_B: jax.Array | None = None) -> Network:
  """Folds the statistics of some rows into the weights, layer by layer.

  Args:
    mlp: the architecture.
    params: {W, b, V}, as the rule has trained them.
    x_BxN: the rows [B, n_0]; two or more.
    mask_B: optional, 0 for rows to leave out.

  Returns:
    The network, which on these very rows gives the embedding that `MLP.features` gives.
  """

  def layer(x_BxM: jax.Array, weights: Affine) -> tuple[jax.Array, Affine]:
    z_BxN = x_BxM @ weights.w
    mean_1xN = batch_mean(z_BxN, mask_B)
    scale_1xN = jax.lax.rsqrt(batch_mean(jnp.square(z_BxN - mean_1xN), mask_B) + EPSILON)
    folded = Affine(weights.w * scale_1xN, weights.b - (mean_1xN * scale_1xN)[0])
    return _layer(mlp, x_BxM, folded), folded

  network = []
  for weights, stack in zip(params.stacks, mlp.stacks, strict=True):
    x_BxN, folded = scan_or_call(layer, x_BxN, Affine(weights.w, weights.b), stack.count)
    network.append(folded)
  return tuple(network)


def embed(mlp: MLP, network: Network, x_BxN: jax.Array, inputs: Centred | None = None) -> jax.Array:
  """What the network makes of rows [B, n_0], each by itself.

  Returns:
    The embedding x_L, [B, n_L]; given `inputs`, these and all layers `side_by_side`.
  """
  x_BxP = x_BxN

  def layer(x_BxM: jax.Array, weights: Affine) -> tuple[jax.Array, jax.Array]:
    x_BxN = _layer(mlp, x_BxM, weights)
    return x_BxN, x_BxN

  found = []
  for weights, stack in zip(network, mlp.stacks, strict=True):
    x_BxN, x_RxBxN = scan_or_call(layer, x_BxN, weights, stack.count)
    found.extend(x_RxBxN)
  return x_BxN if inputs is None else side_by_side(x_BxP, inputs, found)


def _layer(mlp: MLP, x_BxM: jax.Array, weights: Affine) -> jax.Array:
  return NONLINEARITIES[mlp.nonlinearity](x_BxM @ weights.w + weights.b[None, :])
