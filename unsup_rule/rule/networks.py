"""The two convolutional networks of the rule and the delta signal (SPEC: sections 4.1 to 4.3).

Shape legend: B examples, M units below, N units of this layer, C channels, D delta channels.
"""

import jax
import jax.numpy as jnp

from unsup_rule.rule.layers import BATCH, UNITS, batch_norm, conv_bn_relu, convolve, linear, masked
from unsup_rule.rule.sizes import Sizes, Theta, numbered
from unsup_rule.rule.tape import record, scope


def top_delta(theta: Theta, sizes: Sizes, x_BxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """4.1: the embedding x_L [B, n_L] to the delta d_L [B, n_L, D] that starts the way down.

  Convolutions run over the batch; the second and third mix units, which ties theta to n_L.
  """
  name = "compute_top_delta/{}".format
  with scope("top"):
    a = conv_bn_relu(theta, name("conv_1d"), name("batch_norm"), x_BxN[:, :, None], BATCH, mask_B)
    a = a.swapaxes(1, 2)  # [B, C_t, N]: units become channels
    for i in (1, 2):
      a = conv_bn_relu(theta, name(f"conv_1d_{i}"), name(f"batch_norm_{i}"), a, BATCH, mask_B)
    a = a.swapaxes(1, 2)
    for i in range(3, 3 + sizes.top_delta_layers):
      a = conv_bn_relu(theta, name(f"conv_1d_{i}"), name(f"batch_norm_{i}"), a, BATCH, mask_B)
    last = name(f"conv_1d_{3 + sizes.top_delta_layers}")
    d = convolve(masked(a, mask_B), theta[last]["w"], BATCH) + theta[last]["b"][None, None, :]
    record(last, lambda: d)
  return d


def weight_statistics(w: jax.Array, axis: int) -> jax.Array:
  """4.2 (b): mean|w|, rms, mean and standard deviation over `axis`, stacked last: [..., N, 4]."""
  mean = jnp.mean(w, axis=axis, keepdims=True)
  statistics = (
    jnp.mean(jnp.abs(w), axis=axis),
    jnp.sqrt(jnp.mean(jnp.square(w), axis=axis) + 1e-6),
    jnp.squeeze(mean, axis),
    jnp.sqrt(jnp.mean(jnp.square(w - mean), axis=axis) + 1e-8),
  )
  return jnp.stack(statistics, axis=-1)


def features(
  x_BxN: jax.Array, z_BxN: jax.Array, d_BxNxD: jax.Array, theta: Theta, mask_B: jax.Array | None
) -> jax.Array:
  """4.2 (a): normalised [x, z, sin t, cos t, d], t running once round twice over the units."""
  n = x_BxN.shape[1]
  t_N = jnp.linspace(0.0, 4 * jnp.pi, n, dtype=x_BxN.dtype)
  waves_BxNx2 = jnp.broadcast_to(
    jnp.stack([jnp.sin(t_N), jnp.cos(t_N)], axis=-1)[None], (*x_BxN.shape, 2)
  )
  parts = [x_BxN[:, :, None], z_BxN[:, :, None], waves_BxNx2, d_BxNxD]
  normalised = batch_norm(jnp.concatenate(parts, axis=-1), theta["batch_norm"]["beta"], mask_B)
  record("batch_norm", lambda: normalised)
  return normalised


def layer_network(
  theta: Theta,
  sizes: Sizes,
  layer: dict[str, jax.Array],
  d_BxNxD: jax.Array,
  mask_B: jax.Array | None,
) -> jax.Array:
  """4.2: what happens in and around each unit, to h [B, N, C]; one network for all layers.

  Args:
    theta: parameters of the rule.
    sizes: its sizes.
    layer: "x" and "z" [B,N] (z = x for the input layer), "b" [N] (zeros for the input layer) and
      "statistics" [N,8] of the raw weights below and above (`weight_statistics`).
    d_BxNxD: the delta that arrives at the layer.
    mask_B: 1 for examples that are there, or None.
  """
  batch = d_BxNxD.shape[0]
  s_Nx8 = layer["statistics"]
  s_Nx8 = s_Nx8 * jax.lax.rsqrt(jnp.mean(jnp.square(s_Nx8)) + 1e-6)
  constant_Nx9 = jnp.concatenate([s_Nx8, layer["b"][:, None]], axis=-1)
  constant = jnp.broadcast_to(constant_Nx9[None], (batch, *constant_Nx9.shape))
  a = jnp.concatenate([constant, features(layer["x"], layer["z"], d_BxNxD, theta, mask_B)], axis=-1)
  for i in range(1 + sizes.compute_h_layers):
    conv, norm = numbered("conv_1d", i), f"batch_norm_{1 + i}"
    a = conv_bn_relu(theta, conv, norm, a, BATCH, mask_B)
    a = unit_conv(theta, numbered("ConcatUnitConv", i), a, mask_B)
  return a


def unit_conv(theta: Theta, name: str, a: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """4.2 UnitConv: a residual block of two convolutions over the units, additive, no relu after."""
  u = conv_bn_relu(theta, f"{name}/conv_1d", f"{name}/batch_norm", a, UNITS, mask_B)
  return a + conv_bn_relu(theta, f"{name}/conv_1d_1", f"{name}/batch_norm_1", u, UNITS, mask_B)


def layer_delta(theta: Theta, d_BxNxD: jax.Array, z_BxN: jax.Array, h_BxNxC: jax.Array) -> jax.Array:
  """4.3: delta_l = d_l * sigmoid(z_l) + (h_l P + p), [B, N, D]."""
  return d_BxNxD * jax.nn.sigmoid(z_BxN)[:, :, None] + linear(theta, "linear", h_BxNxC)


def back_project(delta_BxNxD: jax.Array, v_MxN: jax.Array) -> jax.Array:
  """4.3: delta_l through the raw backward matrix V_l, normalised over its channels: [B, M, D]."""
  e_BxMxD = jnp.einsum("bnd,mn->bmd", delta_BxNxD, v_MxN)
  return e_BxMxD * jax.lax.rsqrt(jnp.mean(jnp.square(e_BxMxD), axis=-1, keepdims=True) + 1e-6)
