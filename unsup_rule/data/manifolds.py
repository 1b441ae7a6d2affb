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
from unsup_rule.data.drawn import SPLITS, DrawnSource

_BANDS = 4  # classes along a roll
_BLOBS = 5

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
class ManifoldSource(DrawnSource):
  """Points to draw.

  Attributes:
    name: "manifolds", or one kind: "manifolds/moons", "/circles", "/rolls", "/blobs".
    split: "train", "valid" or "test", which share no world.
    resolution: number of inputs, 2 to 64; 8 if None.
    worlds: of the pool.
    examples: points of a class.
    noise: standard deviation of each input's noise; a world's points have a mean square of 1.
  """

  NAMES = ("manifolds", *(f"manifolds/{kind}" for kind in _KINDS))
  SIZES = range(2, 65)
  DEFAULT_SIZE = 8
  SIZE_IS = "number of inputs"

  worlds: int = 24
  examples: int = 200
  noise: float = 0.05

  def drawn_with(self) -> tuple[str]:
    """The toys come from scikit-learn."""
    import sklearn

    return (sklearn.__version__,)

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
    n = self.size
    flat = world_NxD[:, :n] - world_NxD[:, :n].mean(axis=0)
    flat = flat / np.sqrt(np.square(flat).sum(axis=1).mean())
    rotation, _ = np.linalg.qr(rng.normal(size=(n, n)))
    placed = flat @ rotation[: flat.shape[1]] + 0.3 * rng.normal(size=n) / np.sqrt(n)
    return placed + self.noise * rng.normal(size=placed.shape)
