"""Convolution, batch normalisation and linear maps of the rule (SPEC: section 2).

Everything is laid out [B, N, C] = batch, units, channels. Convolutions run over axis 0 (`BATCH`) or axis 1
(`UNITS`). They are matrix products with shifted sums rather than `lax.conv`, which XLA:CPU runs more than
ten times slower inside a scan.
"""

import functools

import jax
import jax.numpy as jnp

from unsup_rule.rule.sizes import Theta
from unsup_rule.rule.tape import is_recording, record

BATCH, UNITS = 0, 1
BN_EPSILON = 1e-3


def linear(theta: Theta, name: str, x: jax.Array) -> jax.Array:
  """x w + b over the last axis."""
  return x @ theta[name]["w"] + theta[name]["b"].reshape((1,) * (x.ndim - 1) + (-1,))


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


def convolve(x_BxNxC: jax.Array, w_KxCxO: jax.Array, axis: int) -> jax.Array:
  """Cross-correlation along `axis`, stride 1, SAME zero padding: [B,N,C] -> [B,N,O], no bias."""
  width, c_in, c_out = w_KxCxO.shape
  offsets = range(-(width // 2), width - width // 2)
  if c_in * 2 <= c_out:  # few input channels: gather the neighbours first, then one product
    columns = jnp.concatenate([shift(x_BxNxC, offset, axis) for offset in offsets], axis=-1)
    return columns @ w_KxCxO.reshape(width * c_in, c_out)
  products = x_BxNxC @ w_KxCxO.transpose(1, 0, 2).reshape(c_in, width * c_out)
  return sum(
    shift(products[..., k * c_out : (k + 1) * c_out], offset, axis)
    for k, offset in enumerate(offsets)
  )


def batch_norm(x_BxNxC: jax.Array, beta_1x1xC: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """(x - mean) / sqrt(var + 1e-3) + beta, statistics of this very batch over examples and units.

  Sonnet's `test_local_stats` default makes the authors' program do so in training and evaluation
  alike, hence no moving averages.
  """
  centred = x_BxNxC - _mean(x_BxNxC, mask_B)
  return centred * jax.lax.rsqrt(_mean(jnp.square(centred), mask_B) + BN_EPSILON) + beta_1x1xC


def _mean(x_BxNxC: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  if mask_B is None:
    return jnp.mean(x_BxNxC, axis=(0, 1), keepdims=True)
  count = jnp.maximum(jnp.sum(mask_B), 1) * x_BxNxC.shape[1]
  return jnp.sum(x_BxNxC * mask_B[:, None, None], axis=(0, 1), keepdims=True) / count


def conv_bn_relu(
  theta: Theta, conv: str, norm: str, x_BxNxC: jax.Array, axis: int, mask_B: jax.Array | None
) -> jax.Array:
  """relu(BN(conv(x))). The conv's bias is cancelled by BN, so it is only shown to a tape."""
  w, beta = theta[conv]["w"], theta[norm]["beta"]
  if mask_B is None and not is_recording():
    return _block(x_BxNxC, w, beta, axis)
  y = convolve(masked(x_BxNxC, mask_B) if axis == BATCH else x_BxNxC, w, axis)
  record(conv, lambda: y + theta[conv]["b"][None, None, :])
  y = batch_norm(y, beta, mask_B)
  record(norm, lambda: y)
  return jax.nn.relu(y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _block(
  x_BxNxC: jax.Array, w_KxCxO: jax.Array, beta_1x1xO: jax.Array, axis: int
) -> jax.Array:
  """relu(BN(conv(x))) with a backward pass by hand.

  XLA:CPU fuses the automatic one across neighbouring blocks and computes the same values many times over: a
  chain of these blocks takes twelve times its forward time, with this three and a half.
  """
  return _block_forward(x_BxNxC, w_KxCxO, beta_1x1xO, axis)[0]


def _block_forward(x_BxNxC, w_KxCxO, beta_1x1xO, axis):
  y = convolve(x_BxNxC, w_KxCxO, axis)
  mean = jnp.mean(y, axis=(0, 1), keepdims=True)
  inverse = jax.lax.rsqrt(jnp.mean(jnp.square(y - mean), axis=(0, 1), keepdims=True) + BN_EPSILON)
  out = jax.nn.relu((y - mean) * inverse + beta_1x1xO)
  return out, (x_BxNxC, w_KxCxO, beta_1x1xO, y, mean, inverse)


def _block_backward(axis, residuals, d_out):
  x, w_KxCxO, beta, y, mean, inverse = residuals
  width, c_in, c_out = w_KxCxO.shape
  n = y.shape[0] * y.shape[1]
  standard = (y - mean) * inverse
  d_norm = jnp.where(standard + beta > 0, d_out, 0)
  d_beta = jnp.sum(d_norm, axis=(0, 1), keepdims=True)
  d_scale = jnp.sum(d_norm * standard, axis=(0, 1), keepdims=True)
  d_y = inverse * (d_norm - d_beta / n - standard * (d_scale / n))
  # Columns of neighbouring d_y serve both products.
  offsets = range(width // 2, width // 2 - width, -1)
  columns = jnp.concatenate([shift(d_y, offset, axis) for offset in offsets], axis=-1)
  columns = columns.reshape(n, width * c_out)
  d_x = columns @ w_KxCxO.transpose(0, 2, 1).reshape(width * c_out, c_in)
  d_w = (x.reshape(n, c_in).T @ columns).reshape(c_in, width, c_out).transpose(1, 0, 2)
  return d_x.reshape(x.shape), d_w, d_beta


_block.defvjp(_block_forward, _block_backward)


def masked(x: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """Zero in the rows of missing examples, as if the batch ended before them."""
  return x if mask_B is None else x * mask_B.reshape((-1,) + (1,) * (x.ndim - 1))
