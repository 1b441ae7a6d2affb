"""Data sets as gin files name them: what is loaded, and what tasks are made of it."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from unsup_rule import hints
from unsup_rule.data.dataset import Dataset
from unsup_rule.data.sets import load
from unsup_rule.errors import UnsupRuleError
from unsup_rule.tasks.augment import Augmentation

SpecSettings = str | Mapping[str, Any]  # a name, or the attributes of a description

_WORDS = ("presence", "counts")
_DISJOINT_SPLITS = ("glyphs", "silhouettes", "bags", "manifolds")  # whose splits share nothing


@dataclasses.dataclass(frozen=True)
class ExamplesSpec:
  """Which examples: a data set, and what of it.

  Attributes:
    name: as `unsup_rule.data.load` knows it: "glyphs", "silhouettes", or a name of TensorFlow
      Datasets.
    classes: classes to use, by number; () for all.
    grey: whether colours are averaged away.
    words: what a text is to the model: "presence" of each word (0 or 1, the range of an image's
      pixels), or "counts" of it, which reach tens and in which the longest texts prevail.
  """

  name: str
  _: dataclasses.KW_ONLY
  classes: tuple[int, ...] = ()
  grey: bool = False
  words: str = "presence"

  def __post_init__(self):
    self._as_numbers("classes")
    if self.words not in _WORDS:
      raise UnsupRuleError(
        f"data set {self.name!r}: words is {self.words!r}; choose one of {', '.join(_WORDS)}"
      )

  def _as_numbers(self, *fields: str) -> None:
    """Makes tuples of lists of whole numbers, as gin and JSON give them."""
    for field in fields:
      value = getattr(self, field)
      if not isinstance(value, (tuple, list)) or not all(isinstance(v, int) for v in value):
        raise UnsupRuleError(
          f"data set {self.name!r}: {field} is {value!r}; give a list of whole numbers"
        )
      object.__setattr__(self, field, tuple(value))

  @classmethod
  def from_settings(cls, settings: "SpecSettings | Self") -> Self:
    """Reads a name alone, or a dictionary of the attributes."""
    if isinstance(settings, cls):
      return settings
    if isinstance(settings, str):
      settings = {"name": settings}
    if not isinstance(settings, Mapping) or "name" not in settings:
      raise UnsupRuleError(
        f"a data set is given as {settings!r}; give a name or a dictionary with a name"
      )
    takes = typing.get_type_hints(cls)
    known = {field.name: takes[field.name] for field in dataclasses.fields(cls)}
    for key, value in settings.items():
      if key not in known:
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it may have {', '.join(known)}"
        raise UnsupRuleError(f"data set {settings['name']!r} has an unknown setting {key!r}{hint}")
      # Lists of numbers have a check of their own.
      if typing.get_origin(known[key]) is not tuple and not hints.fits(value, known[key]):
        raise hints.misfit(f"data set {settings['name']!r}: {key}", value, known[key])
    return cls(**settings)

  def examples(self, split: str, resolution: int | None) -> Dataset:
    """Loads those of a split; images at `resolution` pixels a side, or the set's own."""
    dataset = load(self.name, split, resolution=resolution, grey=self.grey)
    if self.words == "presence" and not dataset.is_image and dataset.images.dtype == np.uint8:
      dataset = dataclasses.replace(dataset, images=np.minimum(dataset.images, 1))
    return dataset.select_classes(self.classes) if self.classes else dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec(ExamplesSpec, Augmentation):
  """One line of a gin file's list of data sets: examples, and the tasks that are made of them.

  Attributes, beside those of `ExamplesSpec` and `Augmentation`:
    split: its split.
    ways: numbers of classes a task may have, each as likely; () for all of the classes.
    weight: relative frequency of tasks from this set.
    resolutions: sides of the resized images, one drawn a task family; () for the set's own.
  """

  split: str = "train"
  ways: tuple[int, ...] = ()
  weight: float = 1.0
  resolutions: tuple[int, ...] = ()

  def __post_init__(self):
    ExamplesSpec.__post_init__(self)
    Augmentation.__post_init__(self)
    self._as_numbers("ways", "resolutions")
    if not self.weight > 0:
      raise UnsupRuleError(
        f"data set {self.name!r}: weight is {self.weight}; give a positive number"
      )

  @classmethod
  def from_settings(cls, settings: "SpecSettings | Self") -> Self:
    """Reads a name alone, or a dictionary of the attributes, in which no list is empty."""
    if isinstance(settings, Mapping):
      for key in ("classes", "ways", "resolutions"):
        if key in settings and not settings[key] and settings[key] != 0:
          raise UnsupRuleError(
            f"data set {settings.get('name')!r}: {key} is empty; give at least one number, or "
            "leave it out"
          )
    return super().from_settings(settings)

  def load(self, resolution: int | None = None) -> Dataset:
    """Loads the examples."""
    return self.examples(self.split, resolution)

  def source(self, resolution: int | None = None, weight: float | None = None) -> "Source":
    """The tasks made from it at one resolution."""
    dataset = self.load(resolution)
    return Source(dataset, self.ways, self.weight if weight is None else weight, self)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """Examples, and the tasks made from them.

  Attributes:
    dataset: the examples.
    ways: numbers of classes a task may have, each as likely; () for all classes.
    weight: relative frequency of tasks from this source.
    augmentation: of its tasks.
  """

  dataset: Dataset
  ways: tuple[int, ...] = ()
  weight: float = 1.0
  augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

  def __post_init__(self):
    object.__setattr__(self, "ways", tuple(self.ways) or (self.dataset.n_classes,))
    if not self.weight > 0:
      raise UnsupRuleError(f"{self.dataset.name}: weight is {self.weight}; give a positive number")
    for n in self.ways:
      if not 2 <= n <= self.dataset.n_classes:
        raise UnsupRuleError(
          f"{self.dataset.name} has {self.dataset.n_classes} classes, so a {n}-way problem is "
          f"impossible; choose ways between 2 and {self.dataset.n_classes}"
        )
    for kind in ("rotation", "shift", "thickness", "shading"):
      if getattr(self.augmentation, kind) and not self.dataset.is_image:
        raise UnsupRuleError(f"{self.dataset.name} has no images, so no {kind}; set it to 0")


def check_disjoint(
  training: Iterable[SpecSettings | DatasetSpec], evaluation: Iterable[SpecSettings | DatasetSpec]
) -> None:
  """Refuses a data set that is both trained and evaluated on, whatever the split or configuration.

  The same set is fine with classes that do not overlap, and what is drawn (glyphs, silhouettes,
  bags, manifolds) with another split, since no typeface, family, topic or world is in two splits.

  Args:
    training: settings of data sets, see `DatasetSpec`.
    evaluation: settings of data sets.

  Raises:
    UnsupRuleError: names the set.
  """
  evaluated = [DatasetSpec.from_settings(settings) for settings in evaluation]
  for trained in map(DatasetSpec.from_settings, training):
    for other in evaluated:
      # Configurations of one set ("imagenet_resized/8x8") and its versions hold the same examples.
      family, other_family = (re.split("[/:]", one.name)[0] for one in (trained, other))
      drawn_apart = family in _DISJOINT_SPLITS and trained.split != other.split
      disjoint = (
        trained.name == other.name
        and trained.classes
        and other.classes
        and not set(trained.classes) & set(other.classes)
      )
      if family == other_family and not drawn_apart and not disjoint:
        raise UnsupRuleError(
          f"data set {trained.name!r} is both trained and evaluated on; remove it from one, or "
          "give the two classes that do not overlap"
        )
