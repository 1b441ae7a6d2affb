"""What data sets that are drawn by a program have in common: settings, checks, a fingerprint."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class DrawnSource(abc.ABC):
  """What to draw: settings of `render`, and a fingerprint of all that its result depends on.

  Attributes:
    name: one of `NAMES`.
    split: "train", "valid" or "test".
    resolution: one of `SIZES`; `DEFAULT_SIZE` if None.
  """

  NAMES: ClassVar[Sequence[str]]
  SIZES: ClassVar[range]
  DEFAULT_SIZE: ClassVar[int]
  SIZE_IS: ClassVar[str] = "pixels a side"
  VERSION: ClassVar[int] = 1  # of the drawing; raised when anything in it changes the examples

  name: str
  split: str
  resolution: int | None = None

  def __post_init__(self):
    if self.name not in self.NAMES:
      raise UnsupRuleError(
        f"unknown {self.NAMES[0]} {self.name!r}: choose one of {', '.join(self.NAMES)}"
      )
    if self.split not in SPLITS:
      raise UnsupRuleError(
        f"data set {self.name!r} has no split {self.split!r}: choose one of {', '.join(SPLITS)}"
      )
    if self.size not in self.SIZES:
      raise UnsupRuleError(
        f"resolution {self.size} for data set {self.name!r}, its {self.SIZE_IS}: choose "
        f"{self.SIZES[0]} to {self.SIZES[-1]}"
      )
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and (not isinstance(value, int) or value < 1):
        where = f"{type(self).__name__}.{field.name}"
        raise UnsupRuleError(f"{where} is {value!r}: give a whole number from 1 up")

  @property
  def size(self) -> int:
    """Of an example."""
    return self.DEFAULT_SIZE if self.resolution is None else self.resolution

  def fingerprint(self) -> str:
    """Changes with the settings, the drawing, and what it draws with."""
    settings = dataclasses.astuple(dataclasses.replace(self, resolution=self.size))
    return repr((self.VERSION, np.__version__, *settings, *self.drawn_with()))

  def drawn_with(self) -> Sequence[str]:
    """Versions of what the drawing depends on, beside numpy."""
    return ()

  @abc.abstractmethod
  def render(self) -> Dataset:
    """Draws the dataset."""
