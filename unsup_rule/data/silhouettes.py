"""Filled shapes drawn by a formula: a hierarchy of random outlines, limbs, gaps and markings.

A shape is a vector z of standard normal numbers. Families, classes of a family and examples of a
class are correlated vectors:

  z_family ~ N(0, I),  z_child = sqrt(1 - s^2) z_parent + s e,  e ~ N(0, I)

so that classes of one family are alike, as garments are, and every level has the same marginal law.
What tells nothing of the class (light, texture, pose) is drawn for each example alone.

Shape legend: N examples, G points of the grid, K harmonics, L limbs, M markings.
"""

import dataclasses

import gin
import numpy as np

from unsup_rule.data.dataset import Dataset
from unsup_rule.data.drawn import SPLITS, DrawnSource
from unsup_rule.errors import UnsupRuleError

_HARMONICS, _LIMBS, _MARKS = 5, 3, 2
_WIDTHS = {"outline": 2 * _HARMONICS, "body": 2, "limbs": 6 * _LIMBS, "gap": 6, "marks": 4 * _MARKS}
_N_LATENTS = sum(_WIDTHS.values())
_SUPERSAMPLED = 3  # points a pixel's side
_ROUGH = 32  # points a side of the grid that finds a shape's extent
_REACH = 2.5  # half the side of that grid; no shape is larger
_RARE = np.array([0, 0, 0, 0, 1.2, 1.2], np.float32)  # off a gap: few have one
_CHUNK = 512  # examples drawn at once, which bounds the memory


@gin.configurable(module="unsup_rule", denylist=["name", "split", "resolution"])
@dataclasses.dataclass(frozen=True)
class SilhouetteSource(DrawnSource):
  """Shapes to draw.

  Attributes:
    name: "silhouettes".
    split: "train", "valid" or "test", which share no family.
    resolution: pixels a side, 8 to 32; 14 if None.
    families: families of classes.
    classes: classes of a family.
    examples: examples of a class.
    class_spread: s of a class within its family, 0 (all alike) to 1 (no family at all).
    example_spread: s of an example within its class.
  """

  NAMES = ("silhouettes",)
  SIZES = range(8, 33)
  DEFAULT_SIZE = 14

  families: int = 16
  classes: int = 12
  examples: int = 120
  class_spread: float = 0.7
  example_spread: float = 0.2

  def __post_init__(self):
    super().__post_init__()
    for field in ("class_spread", "example_spread"):
      if not 0 <= (value := getattr(self, field)) <= 1:
        raise UnsupRuleError(f"SilhouetteSource.{field} is {value}: give a number from 0 to 1")

  def render(self) -> Dataset:
    """Draws the dataset: bright on black, [N, resolution, resolution, 1] uint8."""
    rng = np.random.default_rng([239, SPLITS.index(self.split)])
    family_z = rng.standard_normal((self.families, 1, 1, _N_LATENTS))
    class_z = _child(rng, family_z, self.class_spread, 1, self.classes)
    example_z = _child(rng, class_z, self.example_spread, 2, self.examples)
    z_NxD = example_z.reshape(-1, _N_LATENTS).astype(np.float32)
    images = [_draw(rng, z_NxD[i : i + _CHUNK], self.size) for i in range(0, len(z_NxD), _CHUNK)]
    names = [f"{f}.{c}" for f in range(self.families) for c in range(self.classes)]
    labels = np.repeat(np.arange(len(names)), self.examples)
    return Dataset.build(
      self.name, self.split, np.concatenate(images)[..., None], labels, names, 1 / 255
    )


def _child(rng, parent, spread: float, axis: int, count: int) -> np.ndarray:
  """`count` children of each parent along `axis`, [..., _N_LATENTS]."""
  shape = list(parent.shape)
  shape[axis] = count
  noise = rng.standard_normal(shape)
  return np.sqrt(1 - spread**2) * parent + spread * noise


def _draw(rng: np.random.Generator, z_NxD: np.ndarray, resolution: int) -> np.ndarray:
  """Draws a shape for each row: uint8 [N, resolution, resolution]."""
  n, side = len(z_NxD), resolution * _SUPERSAMPLED
  shape = _decode(z_NxD)
  grid_G = _REACH * _grid(_ROUGH)
  y_G, x_G = (g.ravel() for g in np.meshgrid(grid_G, grid_G, indexing="ij"))
  inside_NxG = _inside(shape, x_G[None], y_G[None])
  centre_x, half_x = _extent(inside_NxG, x_G)
  centre_y, half_y = _extent(inside_NxG, y_G)
  # The shape fills the image but for a pose of its own.
  unit = 2 * rng.random((4, n, 1), np.float32) - 1
  half = np.maximum(half_x, half_y) * (1.1 + 0.1 * unit[0])
  angle, shift_x, shift_y = 0.12 * unit[1], 0.06 * unit[2], 0.06 * unit[3]
  grid_G = _grid(side)
  v_G, u_G = (g.ravel() for g in np.meshgrid(grid_G, grid_G, indexing="ij"))
  u_NxG, v_NxG = u_G + shift_x, v_G + shift_y
  x_NxG = centre_x + half * (np.cos(angle) * u_NxG - np.sin(angle) * v_NxG)
  y_NxG = centre_y + half * (np.sin(angle) * u_NxG + np.cos(angle) * v_NxG)
  ink_NxG = _inside(shape, x_NxG, y_NxG) * _marking(shape, x_NxG, y_NxG) * _light(rng, n, u_G, v_G)
  pixels = ink_NxG.reshape(n, resolution, _SUPERSAMPLED, resolution, _SUPERSAMPLED).mean((2, 4))
  return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def _grid(side: int) -> np.ndarray:
  """Centres of `side` cells from -1 to 1."""
  return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)


def _extent(inside_NxG: np.ndarray, at_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Centre and half width [N, 1] of the shapes along one axis."""
  low = np.where(inside_NxG, at_G, np.inf).min(1, keepdims=True)
  high = np.where(inside_NxG, at_G, -np.inf).max(1, keepdims=True)
  low, high = np.where(np.isfinite(low), low, -1), np.where(np.isfinite(high), high, 1)
  return (low + high) / 2, np.maximum((high - low) / 2, 0.2)


def _decode(z_NxD: np.ndarray) -> dict[str, np.ndarray]:
  """Splits latents by part; each keeps its rows first."""
  ends = np.cumsum(list(_WIDTHS.values()))[:-1]
  return dict(zip(_WIDTHS, np.split(z_NxD, ends, axis=1), strict=True))


def _inside(shape: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Whether points lie in the shape: in its outline or a limb, and not in its gap."""
  symmetric_Nx1 = shape["body"][:, :1] > -0.4
  aspect_Nx1 = np.exp(0.35 * shape["body"][:, 1:])
  angle = np.arctan2(x / aspect_Nx1, y * aspect_Nx1)  # from the axis of symmetry
  log_radius = 0.0
  for k in range(1, _HARMONICS + 1):
    cos, sin = shape["outline"][:, k - 1, None], shape["outline"][:, _HARMONICS + k - 1, None]
    even = cos * np.cos(k * angle) + np.where(symmetric_Nx1, 0, sin) * np.sin(k * angle)
    log_radius = log_radius + 0.3 / k * even
  radius = np.hypot(x / aspect_Nx1, y * aspect_Nx1)
  inside = radius < 0.8 * np.exp(np.clip(log_radius, -1.5, 0.6))
  folded = np.where(symmetric_Nx1, np.abs(x), x)
  for limb in np.split(shape["limbs"], _LIMBS, axis=1):
    inside |= _in_limb(limb, folded, y)
  return inside & ~_in_limb(shape["gap"] - _RARE, folded, y)


def _in_limb(z_Nx6: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Whether points lie in a tapered stroke; it has none of them if its width is negative."""
  root_x, root_y, turn, length, thick, taper = (z[:, None] for z in z_Nx6.T)
  root_x, root_y = 0.35 * np.abs(root_x), 0.5 * root_y
  angle, length = np.pi / 2 * turn, 1.0 * np.exp(0.4 * length)
  across, along = np.sin(angle), np.cos(angle)
  share = np.clip(((x - root_x) * across + (y - root_y) * along) / length, 0, 1)
  distance = np.hypot(x - root_x - share * length * across, y - root_y - share * length * along)
  return distance < 0.2 * (thick + 0.3) * (1 + 0.4 * np.tanh(taper) * (2 * share - 1))


def _marking(shape: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Factor of brightness: straight bands across the shape, lighter or darker than it."""
  factor = np.ones(np.broadcast_shapes(x.shape, y.shape))
  for mark in np.split(shape["marks"], _MARKS, axis=1):
    offset, turn, width, contrast = (z[:, None] for z in mark.T)
    across = np.sin(np.pi * turn) * x + np.cos(np.pi * turn) * y - 0.5 * offset
    band = np.abs(across) < 0.15 * np.exp(0.5 * width)
    factor *= np.where(band, np.exp(0.5 * contrast), 1)
  return factor


def _light(rng: np.random.Generator, n: int, u_G: np.ndarray, v_G: np.ndarray) -> np.ndarray:
  """Brightness of each example's points [N, G]: level, one-sided light, and stripes."""
  unit = rng.random((8, n, 1), np.float32)
  level = 0.25 + 0.75 * unit[0]
  turn = 2 * np.pi * unit[1]
  light = 1 + 0.5 * unit[2] * (np.cos(turn) * u_G + np.sin(turn) * v_G)
  turn, waves = np.pi * unit[3], 1 + 9 * unit[4] ** 2
  phase = np.pi * waves * (np.cos(turn) * u_G + np.sin(turn) * v_G) + 2 * np.pi * unit[5]
  depth = 0.5 * unit[6] * (unit[7] < 0.4)
  return level * light * (1 - depth * (1 + np.cos(phase)) / 2)
