"""What a base model gives to a classifier: its embedding, or inputs and all layers."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import MLP, batch_mean
from unsup_rule.rule.structures import Params

OUTPUTS = ("embedding", "layers")


class Centred(NamedTuple):
  """How inputs stand beside the layers: (x_0 - mean) scale, of variance 1 on average."""

  mean: jax.Array  # [n_0]
  scale: jax.Array  # []


def centred(x_BxN: jax.Array, mask_B: jax.Array | None = None) -> Centred:
  """That of some rows [B, n_0]: one scale for all inputs, which keeps their relative sizes."""
  mean_1xN = batch_mean(x_BxN, mask_B)
  variance = jnp.mean(batch_mean(jnp.square(x_BxN - mean_1xN), mask_B))
  return Centred(mean_1xN[0], jnp.where(variance > 0, jax.lax.rsqrt(variance), 1))


def side_by_side(x_BxN: jax.Array, inputs: Centred, layers: Sequence[jax.Array]) -> jax.Array:
  """x_0, centred, and x_1 to x_L as one array, [B, n_0 + n_1 + ... + n_L]."""
  return jnp.concatenate([(x_BxN - inputs.mean) * inputs.scale, *layers], axis=1)


def check(output: str, name: str) -> None:
  """Refuses what is no output.

  Raises:
    UnsupRuleError: says which there are.
  """
  if output not in OUTPUTS:
    raise UnsupRuleError(f"{name} is {output!r}; give " + " or ".join(map(repr, OUTPUTS)))


def width(mlp: MLP, output: str) -> int:
  """How many numbers `read` gives for an example."""
  beside = mlp.n_inputs + sum(mlp.hidden) if output == "layers" else 0
  return beside + mlp.n_outputs


def read(mlp: MLP, params: Params, x_BxN: jax.Array, output: str) -> jax.Array:
  """Features of a batch [B, n_0] under its own statistics.

  Args:
    mlp: the architecture.
    params: {W, b, V}.
    x_BxN: flattened examples.
    output: "embedding" for x_L, [B, n_L]; "layers" for all, `side_by_side`.
  """
  activations = mlp.apply(params, x_BxN)
  if output == "embedding":
    return activations.embedding
  return side_by_side(x_BxN, centred(x_BxN), [layer.x for layer in activations.layers])
