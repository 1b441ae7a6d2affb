"""`Dataset`: immutable labelled examples in memory, laid out for drawing on a device."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from unsup_rule.data import resizing
from unsup_rule.errors import UnsupRuleError

_LUMA_C = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Labelled examples of one split of one data set, sorted by class.

  All kinds of data share one layout: images are [N, H, W, C]; vectors (word counts, points) are
  [N, 1, 1, V]. Datasets compare and hash by identity, so they can key a cache of functions.

  Attributes:
    name: the data set's name, as given to `load`.
    split: the split's name.
    images: [N, H, W, C], uint8 (images, and word counts saturated at 255) or float32 (points).
    labels: int32 [N] in 0..n_classes-1, non-decreasing.
    class_names: one name a class.
    scale: model inputs are `images * scale`: 1/255 for images, 1 for counts and points.
  """

  name: str
  split: str
  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  scale: float

  def __post_init__(self):
    object.__setattr__(self, "images", _read_only(self.images.view()))
    object.__setattr__(self, "labels", _read_only(self.labels.view()))

  @classmethod
  def build(
    cls,
    name: str,
    split: str,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scale: float,
  ) -> "Dataset":
    """Checks examples in any order and sorts them by class (stably) into a dataset.

    Args:
      name: the data set's name.
      split: the split's name.
      images: [N, H, W, C] or [N, V], uint8 or floating.
      labels: integers [N] in 0..len(class_names)-1.
      class_names: one name a class.
      scale: factor from stored values to model inputs.

    Raises:
      UnsupRuleError: no examples, non-integer or out-of-range labels, non-finite values, or shapes
        and dtypes that do not fit together.
    """
    where = f"data set {name!r}, split {split!r}"
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 2:
      images = images[:, None, None, :]
    images = _checked_images(where, images, labels)
    _check_labels(where, labels, len(class_names))
    order = np.argsort(labels, kind="stable")
    return cls(
      name, split, images[order], labels[order].astype(np.int32), tuple(class_names), scale
    )

  def __repr__(self) -> str:
    return (
      f"Dataset({self.name!r}, {self.split!r}, {len(self)} examples of {self.shape}, "
      f"{self.n_classes} classes)"
    )

  def __len__(self) -> int:
    return len(self.images)

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """Number of examples of each class, int32 [n_classes]."""
    return _read_only(np.bincount(self.labels, minlength=self.n_classes).astype(np.int32))

  @functools.cached_property
  def starts(self) -> np.ndarray:
    """Index of each class's first example, int32 [n_classes]; the others follow it."""
    return _read_only((np.cumsum(self.counts) - self.counts).astype(np.int32))

  @property
  def n_classes(self) -> int:
    """Number of classes, those without examples included."""
    return len(self.class_names)

  @property
  def shape(self) -> tuple[int, int, int]:
    """(height, width, channels) of one example; (1, 1, V) for vectors."""
    return self.images.shape[1:]

  @property
  def n_inputs(self) -> int:
    """Number of values of one example."""
    return int(np.prod(self.shape))

  @property
  def is_image(self) -> bool:
    """False for vectors (word counts, points), which have no rows and columns."""
    return self.shape[:2] != (1, 1)

  def select_classes(self, classes: Sequence[int]) -> "Dataset":
    """The dataset of some classes only, relabelled 0..len(classes)-1 in the order given.

    Raises:
      UnsupRuleError: the choice is empty, repeats a class, or names one that the dataset lacks.
    """
    chosen = [int(c) for c in classes]
    if not chosen:
      raise UnsupRuleError(
        f"an empty choice of classes from data set {self.name!r}: choose at least one"
      )
    if len(set(chosen)) < len(chosen):
      raise UnsupRuleError(
        f"the choice of classes {chosen} from data set {self.name!r} repeats a class"
      )
    for c in chosen:
      if not 0 <= c < self.n_classes:
        raise UnsupRuleError(
          f"data set {self.name!r} has no class {c}: its classes are 0..{self.n_classes - 1}"
        )
    if not sum(self.counts[c] for c in chosen):
      raise UnsupRuleError(
        f"data set {self.name!r}, split {self.split!r} has no examples of the classes "
        f"{chosen}: choose others"
      )
    rows = np.concatenate(
      [np.arange(self.starts[c], self.starts[c] + self.counts[c]) for c in chosen]
    )
    return dataclasses.replace(
      self,
      images=self.images[rows],
      labels=np.repeat(np.arange(len(chosen), dtype=np.int32), self.counts[chosen]),
      class_names=tuple(self.class_names[c] for c in chosen),
    )

  def require_per_class(self, minimum: int) -> None:
    """Checks that every class has at least `minimum` examples (the probe's labelled ones).

    Raises:
      UnsupRuleError: a class has fewer; it names the smallest one.
    """
    smallest = int(np.argmin(self.counts))
    if self.counts[smallest] < minimum:
      raise UnsupRuleError(
        f"data set {self.name!r}, split {self.split!r} has {self.counts[smallest]} examples of "
        f"class {self.class_names[smallest]!r}, fewer than the {minimum} needed: lower "
        "examples_per_class, or leave the class out"
      )

  def as_grey(self) -> "Dataset":
    """The dataset with one channel: BT.601 luma of RGB, or itself if it has one channel."""
    if self.shape[2] == 1:
      return self
    if not self.is_image or self.shape[2] != 3:
      raise UnsupRuleError(
        f"data set {self.name!r} has examples of shape {self.shape}, which cannot be "
        "made grey: that needs RGB images"
      )
    grey = resizing.in_chunks(lambda x_BxHxWxC: (x_BxHxWxC @ _LUMA_C)[..., None], self.images)
    return dataclasses.replace(self, images=grey)

  def resized(self, resolution: int, method: str = "bilinear") -> "Dataset":
    """The dataset with square images of `resolution` pixels a side.

    uint8 images stay uint8 (rounded to nearest, an error of at most 0.5/255 of an input).

    Args:
      resolution: at most the source's height and width.
      method: "bilinear" (TensorFlow 1's, corner-aligned grid; exact halving takes every second
        pixel) or "area" (box average).

    Raises:
      UnsupRuleError: vectors, a larger resolution than the source's, or an unknown method.
    """
    height, width, _ = self.shape
    if not self.is_image:
      raise UnsupRuleError(
        f"data set {self.name!r} holds vectors, not images: leave its resolution unset"
      )
    if not 1 <= resolution <= min(height, width):
      raise UnsupRuleError(
        f"resolution {resolution} for data set {self.name!r}, whose images are "
        f"{height}x{width}: choose 1 to {min(height, width)}"
      )
    if (height, width) == (resolution, resolution):
      return self
    return dataclasses.replace(self, images=resizing.resize(self.images, resolution, method))


def _read_only(array: np.ndarray) -> np.ndarray:
  array.flags.writeable = False
  return array


def _checked_images(where: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The inputs as uint8 or float32; raises unless they fit together with the labels."""
  if len(images) == 0 or len(labels) == 0:
    raise UnsupRuleError(f"{where} is empty: choose a split that has examples")
  if images.ndim != 4 or 0 in images.shape or labels.shape != images.shape[:1]:
    raise UnsupRuleError(
      f"{where} has inputs of shape {images.shape} and labels of shape {labels.shape}: expected "
      "[N, H, W, C] or [N, V], and [N]"
    )
  if not np.issubdtype(images.dtype, np.floating):
    if images.dtype != np.uint8:
      raise UnsupRuleError(f"{where} has inputs of type {images.dtype}: expected uint8 or floats")
    return images
  images = images.astype(np.float32)
  finite = np.isfinite(images).all(axis=(1, 2, 3))
  if not finite.all():
    raise UnsupRuleError(
      f"{where} has non-finite values in {int((~finite).sum())} examples, first at example "
      f"{int(np.argmin(finite))}: repair the data"
    )
  return images


def _check_labels(where: str, labels: np.ndarray, n_classes: int) -> None:
  if not np.issubdtype(labels.dtype, np.integer):
    raise UnsupRuleError(
      f"{where} has labels of type {labels.dtype}, not integers: choose a classification data set"
    )
  outside = (labels < 0) | (labels >= n_classes)
  if outside.any():
    at = int(np.argmax(outside))
    raise UnsupRuleError(
      f"{where} has label {labels[at]} at example {at}, outside 0..{n_classes - 1}: choose a "
      "labelled split, or repair the data"
    )
