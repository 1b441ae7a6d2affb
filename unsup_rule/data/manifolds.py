"""Toy manifolds: moons, circles, rolls and blobs, turned into a space of 2 to 64 dimensions.

scikit-learn draws them in the plane, or in space; here each is brought to unit size, turned by a
random rotation of the larger space, moved a little and made noisy. "manifolds" is a pool of worlds
of all kinds, of which problems take any classes; "manifolds/moons" and so on are one world.
"""

import dataclasses
from collections.abc import Callable

import gin
import numpy as np

from unsup_rule.data.dataset import Dataset
from unsup_rule.data.faces import SPLITS
from unsup_rule.errors import UnsupRuleError

DIMENSIONS = range(2, 65)
DEFAULT_DIMENSIONS = 8
_BANDS = 4  # classes along a roll
_BLOBS = 5

_VERSION = 1  # raise it when anything below changes the points

World = tuple[np.ndarray, np.ndarray]  # points [N, 2 or 3] and their classes [N]


def _moons(each: int, seed: int) -> World:
  from sklearn.datasets import make_moons  # Takes seconds to import.

  points, labels = make_moons(2 * each, noise=0.1, random_state=seed)
  return np.asarray(points), np.asarray(labels)


def _circles(each: int, seed: int) -> World:
  from sklearn.datasets import make_circles

  points, labels = make_circles(2 * each, noise=0.08, factor=0.5, random_state=seed)
  return np.asarray(points), np.asarray(labels)


def _roll(each: int, seed: int) -> World:
  from sklearn.datasets import make_swiss_roll

  points, along = make_swiss_roll(_BANDS * each, noise=0.4, random_state=seed)
  labels = np.empty(len(along), np.int64)
  labels[np.argsort(along)] = np.repeat(np.arange(_BANDS), each)
  return points[:, [0, 2, 1]], labels  # The spiral is in the first two.


def _blobs(each: int, seed: int) -> World:
  from sklearn.datasets import make_blobs

  points, labels, *_ = make_blobs(
    each * _BLOBS,
    n_features=3,
    centers=_BLOBS,
    cluster_std=2.5,
    center_box=(-5, 5),
    random_state=seed,
  )
  return np.asarray(points), np.asarray(labels)


_KINDS: dict[str, Callable[[int, int], World]] = {
  "moons": _moons,
  "circles": _circles,
  "rolls": _roll,
  "blobs": _blobs,
}


@gin.configurable(module="unsup_rule", denylist=["name", "split", "resolution"])
@dataclasses.dataclass(frozen=True)
class ManifoldSource:
  """What to draw: settings of `render`, and a fingerprint of all that its result depends on.

  Attributes:
    name: "manifolds", or one kind: "manifolds/moons", "/circles", "/rolls", "/blobs".
    split: "train", "valid" or "test", which share no world.
    resolution: number of inputs, 2 to 64; 8 if None.
    worlds: of the pool.
    examples: points of a class.
    noise: standard deviation of each input's noise; a world's points have a mean square of 1.
  """

  name: str
  split: str
  resolution: int | None = None
  worlds: int = 24
  examples: int = 200
  noise: float = 0.05

  def __post_init__(self):
    names = ("manifolds", *(f"manifolds/{kind}" for kind in _KINDS))
    if self.name not in names:
      raise UnsupRuleError(f"unknown manifolds {self.name!r}: choose one of {', '.join(names)}")
    if self.split not in SPLITS:
      raise UnsupRuleError(
        f"data set {self.name!r} has no split {self.split!r}: choose one of {', '.join(SPLITS)}"
      )
    if self.resolution is None:
      object.__setattr__(self, "resolution", DEFAULT_DIMENSIONS)
    if self.resolution not in DIMENSIONS:
      raise UnsupRuleError(
        f"resolution {self.resolution} for data set {self.name!r}, its number of inputs: choose "
        f"{DIMENSIONS[0]} to {DIMENSIONS[-1]}"
      )
    for field in ("worlds", "examples"):
      if not isinstance(value := getattr(self, field), int) or value < 1:
        raise UnsupRuleError(f"ManifoldSource.{field} is {value!r}: give a whole number from 1 up")

  def fingerprint(self) -> str:
    """Changes with the settings and the drawing."""
    import sklearn

    versions = (_VERSION, np.__version__, sklearn.__version__)
    return repr((*versions, dataclasses.astuple(self)))

  def render(self) -> Dataset:
    """Draws the dataset: points, [N, 1, 1, inputs] float32."""
    kinds = list(_KINDS)
    if "/" in self.name:
      drawn = [self.name.split("/")[1]]
    else:
      drawn = [kinds[i % len(kinds)] for i in range(self.worlds)]
    points, labels, names = [], [], []
    for number, kind in enumerate(drawn):
      rng = np.random.default_rng([241, SPLITS.index(self.split), kinds.index(kind), number])
      world, classes = _KINDS[kind](self.examples, int(rng.integers(2**31)))
      points.append(self._placed(rng, world))
      labels.append(classes + len(names))
      names += [f"{kind}{number}.{c}" for c in range(classes.max() + 1)]
    images = np.concatenate(points).astype(np.float32)
    return Dataset.build(self.name, self.split, images, np.concatenate(labels), names, 1.0)

  def _placed(self, rng: np.random.Generator, world_NxD: np.ndarray) -> np.ndarray:
    """The points in the larger space, or their first two coordinates in the plane."""
    n = self.resolution or DEFAULT_DIMENSIONS
    flat = world_NxD[:, :n] - world_NxD[:, :n].mean(axis=0)
    flat = flat / np.sqrt(np.square(flat).sum(axis=1).mean())
    rotation, _ = np.linalg.qr(rng.normal(size=(n, n)))
    placed = flat @ rotation[: flat.shape[1]] + 0.3 * rng.normal(size=n) / np.sqrt(n)
    return placed + self.noise * rng.normal(size=placed.shape)
