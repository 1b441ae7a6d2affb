"""Convolution, batch normalisation and linear maps of the rule (docs/rule.md, section 2).

Everything is laid out channels first, [C, B, N] = channels, batch, units: sums over examples and
units then run along memory, which XLA:CPU does about twice as fast as the other way round.
Convolutions run over axis 1 (`BATCH`) or axis 2 (`UNITS`). They are matrix products with shifted
sums rather than `lax.conv`, which is more than ten times slower inside a scan.
"""

import functools

import jax
import jax.numpy as jnp

from unsup_rule.rule.capture import capture, is_capturing
from unsup_rule.rule.theta import Theta
from unsup_rule.rule.tuning import apart

BATCH, UNITS = 1, 2
BN_EPSILON = 1e-3
ROLLED_BELOW = 32  # channels: what fits the cache is shifted faster by rolling


def linear(theta: Theta, name: str, x_CxBxN: jax.Array) -> jax.Array:
  """x w + b over the channels: [C,B,N] -> [O,B,N]."""
  return channel_product(theta[name]["w"].T, x_CxBxN) + theta[name]["b"][:, None, None]


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


def rolled(x: jax.Array, offset: int, axis: int) -> jax.Array:
  """The same as `shift`; a branch less for each element, but every element is read."""
  if offset == 0:
    return x
  source = jnp.arange(x.shape[axis]) + offset
  inside = (source >= 0) & (source < x.shape[axis])
  shape = [-1 if i == axis else 1 for i in range(x.ndim)]
  return jnp.roll(x, -offset, axis) * inside.astype(x.dtype).reshape(shape)


def convolve(x_CxBxN: jax.Array, w_KxCxO: jax.Array, axis: int) -> jax.Array:
  """Cross-correlation along `axis`, stride 1, SAME zero padding: [C,B,N] -> [O,B,N], no bias."""
  return _convolve(x_CxBxN, _outputs_first(w_KxCxO), len(w_KxCxO), axis)


def _outputs_first(w_KxCxO: jax.Array) -> jax.Array:
  return w_KxCxO.transpose(0, 2, 1).reshape(-1, w_KxCxO.shape[1])


def _convolve(x_CxBxN: jax.Array, w_KOxC: jax.Array, width: int, axis: int) -> jax.Array:
  c_in, c_out = len(x_CxBxN), len(w_KOxC) // width
  offsets = range(-(width // 2), width - width // 2)
  if c_in * 2 <= c_out:  # few input channels: gather the neighbours first, then one product
    columns = jnp.concatenate([shift(x_CxBxN, offset, axis) for offset in offsets])
    w_OxKC = w_KOxC.reshape(width, c_out, c_in).transpose(1, 0, 2).reshape(c_out, -1)
    return channel_product(w_OxKC, columns)
  products = channel_product(w_KOxC, x_CxBxN)
  one = shift if c_out >= ROLLED_BELOW else rolled
  shifted = (
    one(products[k * c_out : (k + 1) * c_out], offset, axis) for k, offset in enumerate(offsets)
  )
  return functools.reduce(jnp.add, shifted)


def batch_norm(x_CxBxN: jax.Array, beta_1x1xC: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """(x - mean) / sqrt(var + 1e-3) + beta, statistics of this very batch over examples and units.

  Sonnet's `test_local_stats` default makes the authors' program do so in training and evaluation
  alike, hence no moving averages.
  """
  centred, inverse_Cx1x1 = _centred_and_inverse(x_CxBxN, mask_B)
  return centred * inverse_Cx1x1 + beta_1x1xC.reshape(-1, 1, 1)


def _centred_and_inverse(
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


def conv_bn_relu(
  theta: Theta, conv: str, norm: str, x_CxBxN: jax.Array, axis: int, mask_B: jax.Array | None
) -> jax.Array:
  """relu(BN(conv(x))). The conv's bias is cancelled by BN, so it only shows in a capture."""
  w, beta = theta[conv]["w"], theta[norm]["beta"]
  if mask_B is None and not is_capturing():
    return _block(x_CxBxN, w, beta, axis)
  y = convolve(masked(x_CxBxN, mask_B) if axis == BATCH else x_CxBxN, w, axis)
  capture(conv, lambda: y + theta[conv]["b"][:, None, None])
  y = batch_norm(y, beta, mask_B)
  capture(norm, lambda: y)
  return jax.nn.relu(y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _block(x_CxBxN: jax.Array, w_KxCxO: jax.Array, beta_1x1xO: jax.Array, axis: int) -> jax.Array:
  """relu(BN(conv(x))) with a backward pass by hand.

  XLA:CPU fuses the automatic one across neighbouring blocks and computes the same values many
  times over.
  """
  return _block_forward(x_CxBxN, w_KxCxO, beta_1x1xO, axis)[0]


def _block_forward(x_CxBxN, w_KxCxO, beta_1x1xO, axis):
  beta = beta_1x1xO.reshape(-1, 1, 1)
  out, centred, inverse_O = _VALUE[axis](x_CxBxN, _outputs_first(w_KxCxO), beta)
  return out, (x_CxBxN, w_KxCxO, beta, centred, inverse_O)


def _block_backward(axis, residuals, d_out):
  x, w_KxCxO, *others = residuals
  width, c_in, c_out = w_KxCxO.shape
  w_CxKO = w_KxCxO.transpose(1, 0, 2).reshape(c_in, width * c_out)
  d_x, d_w, d_beta = _GRADIENT[axis](x, w_CxKO, *others, d_out)
  return d_x, d_w, d_beta.reshape(1, 1, c_out)


# Both get their matrix as it lies in memory in the product: a transposition in here would be folded
# into the product, which XLA:CPU then computes at three quarters of the rate.
def _block_value(x_CxBxN, w_KOxC, beta_Ox1x1, axis):
  y = _convolve(x_CxBxN, w_KOxC, len(w_KOxC) // len(beta_Ox1x1), axis)
  centred, inverse = _centred_and_inverse(y, None)
  return jax.nn.relu(centred * inverse + beta_Ox1x1), centred, inverse.reshape(-1)


def _block_gradient(x, w_CxKO, beta, centred, inverse_O, d_out, axis):
  c_in, c_out = len(x), len(centred)
  width = w_CxKO.shape[1] // c_out
  n = centred.shape[1] * centred.shape[2]
  inverse = inverse_O.reshape(-1, 1, 1)
  standard = centred * inverse
  d_norm = jnp.where(standard + beta > 0, d_out, 0)
  d_beta = jnp.sum(d_norm, axis=(1, 2), keepdims=True)
  d_scale = jnp.sum(d_norm * standard, axis=(1, 2), keepdims=True)
  d_y = inverse * (d_norm - d_beta / n - standard * (d_scale / n))
  # Rows of neighbouring d_y serve both products.
  offsets = range(width // 2, width // 2 - width, -1)
  rows = jnp.concatenate([shift(d_y, offset, axis) for offset in offsets])
  d_x = channel_product(w_CxKO, rows)
  rows_KOxBN, x_CxBN = rows.reshape(width * c_out, n), x.reshape(c_in, n)
  if c_in % 8:  # Such a number of columns costs XLA:CPU up to twice the time.
    d_w = (x_CxBN @ rows_KOxBN.T).reshape(c_in, width, c_out).transpose(1, 0, 2)
  else:
    d_w = (rows_KOxBN @ x_CxBN.T).reshape(width, c_out, c_in).transpose(0, 2, 1)
  return d_x, d_w, d_beta


_VALUE = {axis: apart(functools.partial(_block_value, axis=axis)) for axis in (BATCH, UNITS)}
_GRADIENT = {axis: apart(functools.partial(_block_gradient, axis=axis)) for axis in (BATCH, UNITS)}
_block.defvjp(_block_forward, _block_backward)


def masked(x_CxBxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """Zero for missing examples, as if the batch ended before them."""
  return x_CxBxN if mask_B is None else x_CxBxN * mask_B[None, :, None]
