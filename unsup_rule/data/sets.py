"""Data sets by name, read once, cached on disk and shared in memory.

The names:

  "glyphs" (0-9A-Za-z), "glyphs/letters", "glyphs/mathematical", "glyphs/currency" (10 each):
    characters drawn in many typefaces; splits "train", "valid", "test" share no typeface
    family;
  "silhouettes": filled shapes with limbs, gaps, markings and light; splits "train", "valid" and
    "test" share no family of shapes;
  "bags": synthetic documents as counts of words; splits "train", "valid" and "test" share no
    topic;
  "manifolds", "manifolds/moons", "manifolds/circles", "manifolds/rolls", "manifolds/blobs":
    noisy points on scikit-learn's toys, in a space of some dimensions, float32; splits "train",
    "valid" and "test";
  "digits": scikit-learn's 8x8 digits; splits "train" and "test", half each;
  "two_moons": scikit-learn's two noisy half circles, float32; splits "train" and "test";
  "wine", "breast_cancer", "covertype": scikit-learn's tables, columns standardised, float32;
    splits "train" and "test", half each;
  any image set of TensorFlow Datasets with integer labels, such as "mnist";
  any text set of it, such as "imdb_reviews", as counts of the most frequent training words.
"""

import os
import pathlib
import weakref
from collections.abc import Callable

import gin
import numpy as np

from unsup_rule.data import bags, glyphs, manifolds, silhouettes, tabular, tfds_source
from unsup_rule.data.cache import cached, read, write
from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError

_POINTS = 2000  # two moons: examples of both splits together
_NOISE = 0.1  # their spread

_DRAWN = {
  "glyphs": glyphs.GlyphSource,
  "silhouettes": silhouettes.SilhouetteSource,
  "bags": bags.BagSource,
  "manifolds": manifolds.ManifoldSource,
}
_VECTORS = ("bags", "manifolds")

_loaded: weakref.WeakValueDictionary[tuple, Dataset] = weakref.WeakValueDictionary()
_unpacked: weakref.WeakValueDictionary[str, Dataset] = weakref.WeakValueDictionary()


@gin.configurable("load_data", module="unsup_rule", denylist=["name", "split"])
def load(
  name: str,
  split: str,
  *,
  resolution: int | None = None,
  grey: bool = False,
  data_dir: str | os.PathLike | None = None,
  cache_dir: str | os.PathLike | None = None,
  vocabulary: int = 1000,
  resize: str = "bilinear",
  files: str | os.PathLike | None = None,
) -> Dataset:
  """Loads a split of a data set.

  A dataset that is still in use is shared: the same arguments give the same object.

  Args:
    name: one of those at the head of this module.
    split: the split's name.
    resolution: pixels a side of the (square) result; the set's own if None. What is drawn is drawn
      at it; of bags it is the number of words, of manifolds that of inputs.
    grey: turn RGB into one channel.
    data_dir: TFDS's folder; $TFDS_DATA_DIR or ~/tensorflow_datasets if None.
    cache_dir: where datasets are kept; $UNSUP_RULE_CACHE or ~/.cache/unsup_rule if None. Without
      write access there, data are read afresh each time, with a warning.
    vocabulary: words counted in texts: the most frequent of the split "train".
    resize: "bilinear" or "area", see `Dataset.resized`.
    files: a folder that `pack` filled; what it holds is taken from there as it is. For machines
      that have neither the typefaces nor TensorFlow Datasets.

  Raises:
    UnsupRuleError: an unknown name, split or method; a set that cannot be had or is not fit.
  """
  packed = None if files is None else _packed(files, name, split, resolution, grey)
  if packed is not None and packed.exists():
    dataset = _unpacked.get(str(packed)) or _read_packed(packed)
    _unpacked[str(packed)] = dataset
    return dataset
  key, build = _reader(name, split, resolution, data_dir, vocabulary)
  arguments = (key, resolution, grey, resize, str(cache_dir))
  dataset = _loaded.get(arguments)
  if dataset is not None:
    return dataset
  dataset = cached(key, cache_dir, build)
  if grey:
    dataset = dataset.as_grey()
  if resolution is not None and not are_vectors(name):
    dataset = dataset.resized(resolution, resize)
  _loaded[arguments] = dataset
  return dataset


def are_vectors(name: str) -> bool:
  """Whether a set of this name is drawn with as many inputs as `resolution` says."""
  return name.split("/")[0] in _VECTORS


def pack(
  files: str | os.PathLike,
  name: str,
  split: str,
  *,
  resolution: int | None = None,
  grey: bool = False,
) -> pathlib.Path:
  """Writes what `load` gives into a folder that `load` takes it from elsewhere, see its `files`."""
  path = _packed(files, name, split, resolution, grey)
  write(path, load(name, split, resolution=resolution, grey=grey), path.stem)
  return path


def _read_packed(path: pathlib.Path) -> Dataset:
  try:
    return read(path, path.stem)
  except OSError as error:
    raise UnsupRuleError(f"cannot read {path}: {error.strerror}; pack it again") from error


def _packed(
  files: str | os.PathLike, name: str, split: str, resolution: int | None, grey: bool
) -> pathlib.Path:
  parts = [name.replace("/", "_"), split, *([str(resolution)] if resolution else [])]
  return pathlib.Path(files) / ("-".join([*parts, *(["grey"] if grey else [])]) + ".npz")


def _reader(
  name: str, split: str, resolution: int | None, data_dir: str | os.PathLike | None, vocabulary: int
) -> tuple[str, Callable[[], Dataset]]:
  """What the unprocessed dataset depends on, and a function that makes it."""
  drawn = _DRAWN.get(name.split("/")[0])
  if drawn is not None:
    source = drawn(name, split, resolution)
    return source.fingerprint(), source.render
  if name == "digits":
    return repr((name, split)), lambda: _digits(split)
  if name == "two_moons":
    return repr((name, split, _POINTS, _NOISE)), lambda: _two_moons(split)
  if name in tabular.TABLES:
    return repr((name, split)), lambda: tabular.read(name, split)
  if not isinstance(vocabulary, int) or vocabulary < 1:
    raise UnsupRuleError(f"load_data.vocabulary is {vocabulary!r}: give a whole number from 1 up")
  return (
    repr((name, split, vocabulary, tfds_source.fingerprint(name, data_dir))),
    lambda: tfds_source.read(name, split, data_dir, vocabulary),
  )


def _digits(split: str) -> Dataset:
  from sklearn.datasets import load_digits  # Takes seconds to import.

  values, labels = map(np.asarray, load_digits(return_X_y=True))
  rows = tabular.half("digits", split, labels)
  images = np.rint(values[rows].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
  return Dataset.build("digits", split, images, labels[rows], [str(c) for c in range(10)], 1 / 255)


def _two_moons(split: str) -> Dataset:
  from sklearn.datasets import make_moons

  points, labels = map(np.asarray, make_moons(_POINTS, noise=_NOISE, random_state=0))
  rows = tabular.half("two_moons", split, labels)
  return Dataset.build(
    "two_moons", split, points[rows].astype(np.float32), labels[rows], ["upper", "lower"], 1.0
  )
