"""The base model with its normalisation frozen: a plain MLP, each row embedded by itself.

In training every layer is normalised with the statistics of the batch at hand, so that a row's
embedding depends on its neighbours. Here the statistics of a fixed set of rows are folded into
weights and offsets.
"""

import jax
import jax.numpy as jnp

from unsup_rule.rule.mlp import (
  EPSILON,
  MLP,
  NONLINEARITIES,
  Params,
  batch_mean,
  run_names,
  scan_or_call,
)

Network = dict[str, dict[str, jax.Array]]


def freeze(mlp: MLP, params: Params, x_BxN: jax.Array, mask_B: jax.Array | None = None) -> Network:
  """Folds the statistics of some rows into the weights, layer by layer.

  Args:
    mlp: the architecture.
    params: {W, b, V}, as the rule has trained them.
    x_BxN: the rows [B, n_0]; two or more.
    mask_B: optional, 0 for rows to leave out.

  Returns:
    {"layers_r": {"w": [R,M,N], "b": [R,N]}}: x_l = nonlinearity(x_{l-1} w + b). On these very rows
    that is the embedding `MLP.features` gives.
  """

  def layer(x_BxM, weights):
    z_BxN = x_BxM @ weights["w"]
    mean_1xN = batch_mean(z_BxN, mask_B)
    scale_1xN = jax.lax.rsqrt(batch_mean(jnp.square(z_BxN - mean_1xN), mask_B) + EPSILON)
    folded = {
      "w": weights["w"] * scale_1xN,
      "b": weights["b"] - (mean_1xN * scale_1xN)[0],
    }
    return _layer(mlp, x_BxM, folded), folded

  network: Network = {}
  for name, run in zip(run_names(mlp), mlp.runs, strict=True):
    weights = {"w": params[name]["w"], "b": params[name]["b"]}
    x_BxN, network[name] = scan_or_call(layer, x_BxN, weights, run.count)
  return network


def embed(mlp: MLP, network: Network, x_BxN: jax.Array) -> jax.Array:
  """The embedding [B, n_L] of rows [B, n_0], each by itself."""

  def layer(x_BxM, weights):
    return _layer(mlp, x_BxM, weights), None

  for name, run in zip(run_names(mlp), mlp.runs, strict=True):
    x_BxN, _ = scan_or_call(layer, x_BxN, network[name], run.count)
  return x_BxN


def _layer(mlp: MLP, x_BxM: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
  return NONLINEARITIES[mlp.nonlinearity](x_BxM @ weights["w"] + weights["b"][None, :])
