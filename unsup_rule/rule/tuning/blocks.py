"""Convolutions and blocks of `layers`, as XLA:CPU runs them fast.

Each function computes what the one of its name in `layers` does. None changes a number by more
than rounding; all were chosen by measurement, see docs/performance.md.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unsup_rule.rule import layers
from unsup_rule.rule.layers import (
  BATCH,
  UNITS,
  centred_and_inverse,
  channel_product,
  shift,
)
from unsup_rule.rule.tuning import no_fuse, on_cpu

Arrays = tuple[jax.Array, jax.Array, jax.Array]
ROLLED_BELOW = 32  # channels: what fits the cache is shifted faster by rolling
# Numbers of the input up to which one product is for all taps: beyond, it would take gigabytes.
TAPS_AT_ONCE = 2**27


def rolled(x: jax.Array, offset: int, axis: int) -> jax.Array:
  """The same as `shift`; a branch less for each element, but every element is read."""
  if offset == 0:
    return x
  source = jnp.arange(x.shape[axis]) + offset
  inside = (source >= 0) & (source < x.shape[axis])
  shape = [-1 if i == axis else 1 for i in range(x.ndim)]
  return jnp.roll(x, -offset, axis) * inside.astype(x.dtype).reshape(shape)


def convolve(x_CxBxN: jax.Array, w_KxCxO: jax.Array, axis: int) -> jax.Array:
  """`layers.convolve`: one product for all taps, its rows shifted and added; of a large input, a
  product a tap."""
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
  if x_CxBxN.size > TAPS_AT_ONCE:
    return layers.convolve(x_CxBxN, w_KOxC.reshape(width, c_out, c_in).transpose(0, 2, 1), axis)
  products = channel_product(w_KOxC, x_CxBxN)
  one = rolled if on_cpu() and c_out < ROLLED_BELOW else shift
  shifted = (
    one(products[k * c_out : (k + 1) * c_out], offset, axis) for k, offset in enumerate(offsets)
  )
  return functools.reduce(jnp.add, shifted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def block(x_CxBxN: jax.Array, w_KxCxO: jax.Array, beta_1x1xO: jax.Array, axis: int) -> jax.Array:
  """`layers.block` with a backward pass by hand.

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
  centred, inverse = centred_and_inverse(y, None)
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


def _of_each_axis(function: Callable[..., Arrays]) -> dict[int, Callable[..., Arrays]]:
  return {axis: no_fuse(functools.partial(function, axis=axis)) for axis in (BATCH, UNITS)}


_VALUE, _GRADIENT = _of_each_axis(_block_value), _of_each_axis(_block_gradient)
block.defvjp(_block_forward, _block_backward)
