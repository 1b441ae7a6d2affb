"""Augmentation inside jit; its coefficients become targets of the probe (the paper, eq. 2).

Shape legend: B examples, H rows, W columns, C colours.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from unsup_rule.errors import UnsupRuleError

N_TARGETS = 5  # sin and cos of the angle, two shifts, noise level


@struct.dataclass
class Law:
  """The augmentation of one task: the largest coefficients, 0 where a kind is off.

  Attributes:
    rotation: largest angle either way, radians.
    shift: largest shift along each axis, pixels.
    noise: largest standard deviation of pixel noise, in units of the model's input.
  """

  rotation: jax.Array
  shift: jax.Array
  noise: jax.Array


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What tasks of a data set are augmented with; each kind is on in a task with its probability.

  Attributes:
    rotation: largest angle either way, degrees (180 covers the full circle).
    shift: largest shift along each axis, pixels.
    noise: largest standard deviation of the noise added to inputs, in input units.
    rotation_probability: share of tasks with rotation.
    shift_probability: share of tasks with shifts.
    noise_probability: share of tasks with noise.
  """

  rotation: float = 0.0
  shift: float = 0.0
  noise: float = 0.0
  rotation_probability: float = 1.0
  shift_probability: float = 1.0
  noise_probability: float = 1.0

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      most, until = (1, "to 1") if name.endswith("probability") else (math.inf, "up")
      if not 0 <= value <= most:
        raise UnsupRuleError(f"augmentation: {name} is {value}; give a number from 0 {until}")

  @property
  def largest(self) -> tuple[float, float, float]:
    """(rotation in radians, shift in pixels, noise)."""
    return float(np.deg2rad(self.rotation)), self.shift, self.noise

  @property
  def probabilities(self) -> tuple[float, float, float]:
    """Of rotation, shift and noise in a task."""
    return self.rotation_probability, self.shift_probability, self.noise_probability


def augment(
  images_BxHxWxC: jax.Array, law: Law, geometric: bool, noisy: bool, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Draws coefficients for each example under the task's law and applies them.

  Args:
    images_BxHxWxC: inputs of the model as images, float32.
    law: largest coefficients.
    geometric: whether any task rotates or shifts; a static switch that spares the resampling.
    noisy: whether any task has noise; a static switch that spares drawing it.
    key: random key.

  Returns:
    Images, and the coefficients [B, 5] in units of their largest values where those are not 0.
  """
  batch = images_BxHxWxC.shape[0]
  unit_Bx4 = jax.random.uniform(key, (batch, 4), minval=-1.0, maxval=1.0)
  angle_B = unit_Bx4[:, 0] * law.rotation
  shift_Bx2 = unit_Bx4[:, 1:3] * law.shift
  level_B = jnp.abs(unit_Bx4[:, 3]) * law.noise
  if geometric:
    images_BxHxWxC = jax.vmap(_resample)(images_BxHxWxC, angle_B, shift_Bx2)
  if noisy:
    noise = jax.random.normal(jax.random.fold_in(key, 1), images_BxHxWxC.shape)
    images_BxHxWxC = images_BxHxWxC + level_B[:, None, None, None] * noise
  coefficients = [jnp.sin(angle_B), jnp.cos(angle_B), shift_Bx2[:, 0], shift_Bx2[:, 1], level_B]
  return images_BxHxWxC, jnp.stack(coefficients, axis=1)


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
