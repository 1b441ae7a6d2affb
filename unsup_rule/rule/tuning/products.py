"""Matrix products of `layers` and `terms`, laid out so that they and their gradients are fast.

Each function computes what the text has in its place, to rounding.
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


def is_low_rank(factor_PxN: jax.Array, rows: int) -> bool:
  """Whether x R, x [rows, N], costs under half by way of the factors of R = S^T T, [N, N].

  Args:
    factor_PxN: S or T; P is G B of (4.11), or the B examples of a product of activities.
    rows: units of the other layer.
  """
  rank, size = factor_PxN.shape
  by_factors = 4 * rows * rank  # For each of the N units; symm(R) takes S and T twice.
  by_square = rank * size + rows * size
  return 2 * by_factors < by_square


def symmetric_times(s_PxI: jax.Array, t_PxI: jax.Array, x_IxJ: jax.Array) -> jax.Array:
  """(R + R^T, without its diagonal) x, for R = S^T T, of (4.12)."""
  diagonal_I = 2 * jnp.sum(s_PxI * t_PxI, axis=0)
  return s_PxI.T @ (t_PxI @ x_IxJ) + t_PxI.T @ (s_PxI @ x_IxJ) - diagonal_I[:, None] * x_IxJ


def times_gram(x_JxI: jax.Array, t_PxI: jax.Array) -> jax.Array:
  """x T^T T."""
  return (x_JxI @ t_PxI.T) @ t_PxI
