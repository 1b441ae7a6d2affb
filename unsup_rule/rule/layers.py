"""Convolution, batch normalisation and linear maps of the rule (docs/rule.md, section 2).

Everything is laid out channels first, [C, B, N] = channels, batch, units: sums over examples and
units then run along memory, which XLA:CPU does about twice as fast as the other way round.
Convolutions run over axis 1 (`BATCH`) or axis 2 (`UNITS`). They are matrix products with shifted
sums rather than `lax.conv`, which is more than ten times slower inside a scan. What the rule runs
is in `tuning.blocks` and `tuning.products`; here is what it computes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unsup_rule.rule.theta import Theta

BATCH, UNITS = 1, 2
BN_EPSILON = 1e-3


def linear(theta: Theta, name: str, x_CxBxN: jax.Array) -> jax.Array:
  """x w + b over the channels: [C,B,N] -> [O,B,N]."""
  return channel_product(theta[name]["w"].T, x_CxBxN) + theta[name]["b"][:, None, None]


def linears(theta: Theta, blocks: Sequence[Sequence[str]], x_CxBxN: jax.Array) -> list[jax.Array]:
  """`linear` by each name, stacked for each block of names: [K,O,B,N]."""
  return [jnp.stack([linear(theta, name, x_CxBxN) for name in block]) for block in blocks]


def mixture(weights_T: jax.Array, x_TxMxN: jax.Array) -> jax.Array:
  """sum_t weights[t] x[t]: [M,N]."""
  return jnp.tensordot(weights_T, x_TxMxN, axes=1)


def channel_product(w_OxC: jax.Array, x_CxBxN: jax.Array) -> jax.Array:
  """sum_c w[o,c] x[c,b,n]: [O,B,N]."""
  c, b, n = x_CxBxN.shape
  return (w_OxC @ x_CxBxN.reshape(c, b * n)).reshape(-1, b, n)


def shift(x: jax.Array, offset: int, axis: int) -> jax.Array:
  """y[t] = x[t + offset] along `axis`, zero beyond both ends."""
  if offset == 0:
    return x
  n = x.shape[axis]
  if abs(offset) >= n:
    return jnp.zeros_like(x)
  padding = [(0, 0)] * x.ndim
  padding[axis] = (max(-offset, 0), max(offset, 0))
  kept = jax.lax.slice_in_dim(x, max(offset, 0), n + min(offset, 0), axis=axis)
  return jnp.pad(kept, padding)


def convolve(x_CxBxN: jax.Array, w_KxCxO: jax.Array, axis: int) -> jax.Array:
  """Cross-correlation along `axis`, stride 1, SAME zero padding: [C,B,N] -> [O,B,N], no bias."""
  offsets = range(-(len(w_KxCxO) // 2), len(w_KxCxO) - len(w_KxCxO) // 2)
  taps = (
    channel_product(w_CxO.T, shift(x_CxBxN, offset, axis))
    for w_CxO, offset in zip(w_KxCxO, offsets, strict=True)
  )
  return functools.reduce(jnp.add, taps)


def batch_norm(x_CxBxN: jax.Array, beta_1x1xC: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """(x - mean) / sqrt(var + 1e-3) + beta, statistics of this very batch over examples and units.

  Sonnet's `test_local_stats` default makes the authors' program do so in training and evaluation
  alike, hence no moving averages.
  """
  centred, inverse_Cx1x1 = centred_and_inverse(x_CxBxN, mask_B)
  return centred * inverse_Cx1x1 + beta_1x1xC.reshape(-1, 1, 1)


def centred_and_inverse(
  x_CxBxN: jax.Array, mask_B: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """x - mean and 1 / sqrt(var + 1e-3)."""
  centred = x_CxBxN - _mean(x_CxBxN, mask_B)
  return centred, jax.lax.rsqrt(_mean(jnp.square(centred), mask_B) + BN_EPSILON)


def _mean(x_CxBxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  if mask_B is None:
    return jnp.mean(x_CxBxN, axis=(1, 2), keepdims=True)
  count = jnp.maximum(jnp.sum(mask_B), 1) * x_CxBxN.shape[2]
  return jnp.sum(masked(x_CxBxN, mask_B), axis=(1, 2), keepdims=True) / count


def block(x_CxBxN: jax.Array, w_KxCxO: jax.Array, beta_1x1xO: jax.Array, axis: int) -> jax.Array:
  """relu(BN(conv(x)))."""
  return jax.nn.relu(batch_norm(convolve(x_CxBxN, w_KxCxO, axis), beta_1x1xO, None))


def masked(x_CxBxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """Zero for missing examples, as if the batch ended before them."""
  return x_CxBxN if mask_B is None else x_CxBxN * mask_B[None, :, None]
