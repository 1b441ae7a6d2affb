"""Matrix products of `layers`, laid out so that XLA:CPU runs them and their gradients fast.

Each function computes what the one of its name in `layers` does, to rounding.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unsup_rule.rule.layers import channel_product
from unsup_rule.rule.theta import Theta


def linears(theta: Theta, blocks: Sequence[Sequence[str]], x_CxBxN: jax.Array) -> list[jax.Array]:
  """`layers.linears`: one product for all names."""
  names = [name for block in blocks for name in block]
  # Transposed first: its gradient is then a product with C columns and not with O for each name,
  # 28 of a lower layer. A number that is no multiple of 8 costs XLA:CPU twice the time.
  w_KOxC = jnp.concatenate([theta[name]["w"].T for name in names])
  b_KO = jnp.concatenate([theta[name]["b"] for name in names])
  p_KOxBxN = channel_product(w_KOxC, x_CxBxN) + b_KO[:, None, None]
  p_KxOxBxN = p_KOxBxN.reshape(len(names), -1, *x_CxBxN.shape[1:])
  # A split, since its gradient is one concatenation; that of indexing sums padded arrays.
  return list(jax.lax.split(p_KxOxBxN, [len(block) for block in blocks]))


def mixture(weights_T: jax.Array, x_TxMxN: jax.Array) -> jax.Array:
  """`layers.mixture`, without the gradient of `tensordot`, which transposes all of x."""
  return (weights_T[None] @ x_TxMxN.reshape(len(x_TxMxN), -1)).reshape(x_TxMxN.shape[1:])
