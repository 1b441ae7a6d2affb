"""Augmentation inside jit; coefficients of the paper's kinds are targets of the probe (eq. 2).

Thickness and shading are ours, and no targets: they make drawings into filled, unevenly lit shapes,
which a rule should see through.

Shape legend: B examples, H rows, W columns, C colours.
"""

import dataclasses
import math
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from unsup_rule.errors import UnsupRuleError

N_TARGETS = 5  # sin and cos of the angle, two shifts, noise level


@struct.dataclass
class AugmentationParams:
  """The augmentation of one task: the largest coefficients, 0 where a kind is off.

  Attributes:
    rotation: largest angle either way, radians.
    shift: largest shift along each axis, pixels.
    noise: largest standard deviation of pixel noise, in units of the model's input.
    thickness: most pixels that strokes grow by on each side, 0 to 2.
    shading: largest share of the light that a pattern takes away, 0 to 1.
  """

  rotation: jax.Array
  shift: jax.Array
  noise: jax.Array
  thickness: jax.Array
  shading: jax.Array


KINDS = tuple(field.name for field in dataclasses.fields(AugmentationParams))
_LARGEST_THICKNESS = 2
_SHADING_WAVES = 1.0  # of a pattern across the image, at most, along each axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """What tasks of a data set are augmented with; each kind is on in a task with its probability.

  Attributes:
    rotation: largest angle either way, degrees (180 covers the full circle).
    shift: largest shift along each axis, pixels.
    noise: largest standard deviation of the noise added to inputs, in input units.
    thickness: most pixels that bright strokes grow by on each side, up to 2.
    shading: largest share of the light that is taken away, by a wave over the image, up to 1.
    rotation_probability: share of tasks with rotation.
    shift_probability: share of tasks with shifts.
    noise_probability: share of tasks with noise.
    thickness_probability: share of tasks with thicker strokes.
    shading_probability: share of tasks with shading.
  """

  rotation: float = 0.0
  shift: float = 0.0
  noise: float = 0.0
  thickness: float = 0.0
  shading: float = 0.0
  rotation_probability: float = 1.0
  shift_probability: float = 1.0
  noise_probability: float = 1.0
  thickness_probability: float = 1.0
  shading_probability: float = 1.0

  def __post_init__(self):
    bounds = {"thickness": _LARGEST_THICKNESS, "shading": 1}
    for name in (field.name for field in dataclasses.fields(Augmentation)):
      value = getattr(self, name)
      most = 1 if name.endswith("probability") else bounds.get(name, math.inf)
      if not 0 <= value <= most:
        until = "up" if most == math.inf else f"to {most}"
        raise UnsupRuleError(f"augmentation: {name} is {value}; give a number from 0 {until}")

  @property
  def largest(self) -> tuple[float, ...]:
    """Of each kind in the order of `KINDS`; the rotation in radians."""
    values = {kind: getattr(self, kind) for kind in KINDS}
    return tuple((values | {"rotation": float(np.deg2rad(self.rotation))}).values())

  @property
  def probabilities(self) -> tuple[float, ...]:
    """Of each kind in a task, in the order of `KINDS`."""
    return tuple(getattr(self, f"{kind}_probability") for kind in KINDS)


def augment(
  images_BxHxWxC: jax.Array,
  params: AugmentationParams,
  kinds: Collection[str],
  key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Draws coefficients for each example under the task's parameters and applies them.

  Args:
    images_BxHxWxC: inputs of the model as images, float32.
    params: largest coefficients.
    kinds: of `KINDS`, those that occur in any task; static, spares the work of the others.
    key: random key.

  Returns:
    Images, and the coefficients of rotation, shift and noise [B, 5].
  """
  batch = images_BxHxWxC.shape[0]
  unit_Bx4 = jax.random.uniform(key, (batch, 4), minval=-1.0, maxval=1.0)
  angle_B = unit_Bx4[:, 0] * params.rotation
  shift_Bx2 = unit_Bx4[:, 1:3] * params.shift
  level_B = jnp.abs(unit_Bx4[:, 3]) * params.noise
  if "thickness" in kinds:
    grown_B = params.thickness * jax.random.uniform(jax.random.fold_in(key, 2), (batch, 1))[:, 0]
    images_BxHxWxC = _thickened(images_BxHxWxC, grown_B)
  if "shading" in kinds:
    images_BxHxWxC = _shaded(images_BxHxWxC, params.shading, jax.random.fold_in(key, 3))
  if "rotation" in kinds or "shift" in kinds:
    images_BxHxWxC = jax.vmap(_resample)(images_BxHxWxC, angle_B, shift_Bx2)
  if "noise" in kinds:
    noise = jax.random.normal(jax.random.fold_in(key, 1), images_BxHxWxC.shape)
    images_BxHxWxC = images_BxHxWxC + level_B[:, None, None, None] * noise
  coefficients = [jnp.sin(angle_B), jnp.cos(angle_B), shift_Bx2[:, 0], shift_Bx2[:, 1], level_B]
  return images_BxHxWxC, jnp.stack(coefficients, axis=1)


def _thickened(images_BxHxWxC: jax.Array, grown_B: jax.Array) -> jax.Array:
  """Maximum over a square that reaches `grown` pixels, interpolated between whole ones."""
  for _ in range(_LARGEST_THICKNESS):
    largest = jax.lax.reduce_window(
      images_BxHxWxC, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
    share_B = jnp.clip(grown_B, 0, 1)[:, None, None, None]
    images_BxHxWxC = images_BxHxWxC + share_B * (largest - images_BxHxWxC)
    grown_B = grown_B - 1
  return images_BxHxWxC


def _shaded(images_BxHxWxC: jax.Array, most: jax.Array, key: jax.Array) -> jax.Array:
  """Dims each example by a plane wave of random depth, direction, length and phase."""
  batch, height, width, _ = images_BxHxWxC.shape
  unit_Bx4 = jax.random.uniform(key, (batch, 4))
  waves_Bx2 = _SHADING_WAVES * (2 * unit_Bx4[:, :2] - 1)
  y_BxH = jnp.outer(waves_Bx2[:, 0], jnp.arange(height) / height)
  x_BxW = jnp.outer(waves_Bx2[:, 1], jnp.arange(width) / width)
  turns_BxHxW = y_BxH[:, :, None] + x_BxW[:, None, :] + unit_Bx4[:, 2, None, None]
  dark_BxHxW = (1 + jnp.cos(2 * jnp.pi * turns_BxHxW)) / 2
  return images_BxHxWxC * (1 - most * unit_Bx4[:, 3, None, None] * dark_BxHxW)[..., None]


def _resample(image_HxWxC: jax.Array, angle: jax.Array, shift_2: jax.Array) -> jax.Array:
  """Rotates about the centre, then shifts; bilinear, black beyond the border."""
  height, width, _ = image_HxWxC.shape
  rows, columns = jnp.meshgrid(
    jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij"
  )
  centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
  y, x = rows - centre_row - shift_2[0], columns - centre_column - shift_2[1]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  source = [cos * y + sin * x + centre_row, cos * x - sin * y + centre_column]

  def sample(channel_HxW):
    return jax.scipy.ndimage.map_coordinates(channel_HxW, source, order=1)

  return jax.vmap(sample, in_axes=2, out_axes=2)(image_HxWxC)
