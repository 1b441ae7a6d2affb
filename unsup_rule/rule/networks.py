"""The two convolutional networks of the rule and the delta (docs/rule.md, 4.1 to 4.3).

Shape legend: B examples, M units below, N units of this layer, C channels, D delta channels;
channels come first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unsup_rule.rule.capture import capture, is_capturing, scope
from unsup_rule.rule.layers import BATCH, UNITS, batch_norm, linear, masked
from unsup_rule.rule.theta import Sizes, Theta, numbered
from unsup_rule.rule.tuning.blocks import block, convolve


class Units(NamedTuple):
  """What is known in and around the units of a layer.

  Attributes:
    x: activities [B, N].
    z: before the nonlinearity [B, N]; of the input layer x.
    b: biases [N]; of the input layer 0.
    statistics: of the raw weights below and above, [8, N] (`weight_statistics`).
  """

  x: jax.Array
  z: jax.Array
  b: jax.Array
  statistics: jax.Array


def top_delta(theta: Theta, sizes: Sizes, x_BxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """4.1: the embedding x_L [B, n_L] to the delta d_L [D, B, n_L] that starts the way down.

  Convolutions run over the batch; the second and third mix units, which ties theta to n_L.
  """
  name = "compute_top_delta/{}".format
  x_1xBxN = x_BxN[None]
  a_CxBxN = jnp.concatenate([x_1xBxN, *of_partners(x_1xBxN, sizes.partners, mask_B)])
  with scope("top"):
    a = conv_bn_relu(theta, name("conv_1d"), name("batch_norm"), a_CxBxN, BATCH, mask_B)
    a = a.transpose(2, 1, 0)  # [N, B, C_t]: units become channels
    for i in (1, 2):
      a = conv_bn_relu(theta, name(f"conv_1d_{i}"), name(f"batch_norm_{i}"), a, BATCH, mask_B)
    a = a.transpose(2, 1, 0)
    for i in range(3, 3 + sizes.top_delta_layers):
      a = conv_bn_relu(theta, name(f"conv_1d_{i}"), name(f"batch_norm_{i}"), a, BATCH, mask_B)
    last = name(f"conv_1d_{3 + sizes.top_delta_layers}")
    d_DxBxN = convolve(masked(a, mask_B), theta[last]["w"], BATCH)
    d_DxBxN = d_DxBxN + theta[last]["b"][:, None, None]
    capture(last, lambda: d_DxBxN)
  return d_DxBxN


def conv_bn_relu(
  theta: Theta, conv: str, norm: str, x_CxBxN: jax.Array, axis: int, mask_B: jax.Array | None
) -> jax.Array:
  """relu(BN(conv(x))). The conv's bias is cancelled by BN, so it only shows in a capture."""
  w, beta = theta[conv]["w"], theta[norm]["beta"]
  if mask_B is None and not is_capturing():
    return block(x_CxBxN, w, beta, axis)
  y = convolve(masked(x_CxBxN, mask_B) if axis == BATCH else x_CxBxN, w, axis)
  capture(conv, lambda: y + theta[conv]["b"][:, None, None])
  y = batch_norm(y, beta, mask_B)
  capture(norm, lambda: y)
  return jax.nn.relu(y)


def weight_statistics(w: jax.Array, axis: int) -> jax.Array:
  """4.2 (b): mean|w|, rms, mean and standard deviation over `axis`, stacked: [..., 4, N]."""
  mean = jnp.mean(w, axis=axis, keepdims=True)
  statistics = (
    jnp.mean(jnp.abs(w), axis=axis),
    jnp.sqrt(jnp.mean(jnp.square(w), axis=axis) + 1e-6),
    jnp.squeeze(mean, axis),
    jnp.sqrt(jnp.mean(jnp.square(w - mean), axis=axis) + 1e-8),
  )
  return jnp.stack(statistics, axis=-2)


def of_partners(a_CxBxN: jax.Array, partners: int, mask_B: jax.Array | None) -> list[jax.Array]:
  """4.20: example (b + floor(p B / (P + 1))) mod B in place of b, for p = 1 .. P partners.

  B counts the examples that are there.
  """
  numbers = range(1, partners + 1)
  if mask_B is None:
    batch = a_CxBxN.shape[1]
    return [jnp.roll(a_CxBxN, -(p * batch // (partners + 1)), axis=1) for p in numbers]
  count = jnp.maximum(jnp.sum(mask_B).astype(jnp.int32), 1)
  row_B = jnp.arange(len(mask_B))
  return [a_CxBxN[:, (row_B + p * count // (partners + 1)) % count] for p in numbers]


def features(
  theta: Theta,
  sizes: Sizes,
  x_BxN: jax.Array,
  z_BxN: jax.Array,
  d_DxBxN: jax.Array,
  mask_B: jax.Array | None,
) -> jax.Array:
  """4.2 (a): normalised [x, z, sin t, cos t, d], t running twice round the circle by the units.

  x and z of each partner come last (4.20).
  """
  t_N = jnp.linspace(0.0, 4 * jnp.pi, x_BxN.shape[1], dtype=x_BxN.dtype)
  waves_2xBxN = jnp.broadcast_to(
    jnp.stack([jnp.sin(t_N), jnp.cos(t_N)])[:, None], (2, *x_BxN.shape)
  )
  parts = [x_BxN[None], z_BxN[None], waves_2xBxN, d_DxBxN]
  parts += of_partners(jnp.stack([x_BxN, z_BxN]), sizes.partners, mask_B)
  normalised = batch_norm(jnp.concatenate(parts), theta["batch_norm"]["beta"], mask_B)
  capture("batch_norm", lambda: normalised)
  return normalised


def layer_network(
  theta: Theta,
  sizes: Sizes,
  layer: Units,
  d_DxBxN: jax.Array,
  mask_B: jax.Array | None,
) -> jax.Array:
  """4.2: what happens in and around each unit, to h [C, B, N]; one network for all layers.

  Args:
    theta: parameters of the rule.
    sizes: its sizes.
    layer: the units.
    d_DxBxN: the delta that arrives at the layer.
    mask_B: 1 for examples that are there, or None.
  """
  s_8xN = layer.statistics
  s_8xN = s_8xN * jax.lax.rsqrt(jnp.mean(jnp.square(s_8xN)) + 1e-6)
  constant_9xN = jnp.concatenate([s_8xN, layer.b[None]])
  constant = jnp.broadcast_to(constant_9xN[:, None], (9, *layer.x.shape))
  a = jnp.concatenate([constant, features(theta, sizes, layer.x, layer.z, d_DxBxN, mask_B)])
  for i in range(1 + sizes.compute_h_layers):
    conv, norm = numbered("conv_1d", i), f"batch_norm_{1 + i}"
    a = conv_bn_relu(theta, conv, norm, a, BATCH, mask_B)
    a = unit_conv(theta, numbered("ConcatUnitConv", i), a, mask_B)
  return a


def unit_conv(theta: Theta, name: str, a: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """4.2 UnitConv: a residual block of two convolutions over the units, additive, no relu after."""
  u = conv_bn_relu(theta, f"{name}/conv_1d", f"{name}/batch_norm", a, UNITS, mask_B)
  return a + conv_bn_relu(theta, f"{name}/conv_1d_1", f"{name}/batch_norm_1", u, UNITS, mask_B)


def layer_delta(
  theta: Theta, d_DxBxN: jax.Array, z_BxN: jax.Array, h_CxBxN: jax.Array
) -> jax.Array:
  """4.3: delta_l = d_l * sigmoid(z_l) + (h_l P + p), [D, B, N]."""
  return d_DxBxN * jax.nn.sigmoid(z_BxN)[None] + linear(theta, "linear", h_CxBxN)


def back_project(delta_DxBxN: jax.Array, v_MxN: jax.Array) -> jax.Array:
  """4.3: delta_l through the raw backward matrix V_l, normalised over its channels: [D, B, M]."""
  d, batch, n = delta_DxBxN.shape
  e_DxBxM = (delta_DxBxN.reshape(d * batch, n) @ v_MxN.T).reshape(d, batch, -1)
  return e_DxBxM * jax.lax.rsqrt(jnp.mean(jnp.square(e_DxBxM), axis=0, keepdims=True) + 1e-6)
