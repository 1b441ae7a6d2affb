"""Models that this process trained last: what reads the same ones in another way shares them."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
  """Models of the seeds of one cell, the last one that trained any.

  Cells that share models are measured one after the other by one process (see `processes`), so that
  one cell's are enough.
  """

  def __init__(self):
    self._made_for: Hashable = None
    self._by_seed: dict[int, T] = {}

  def get(self, made_for: Hashable, index: int, make: Callable[[], T]) -> T:
    """The model of a seed, made if it is not there.

    Args:
      made_for: all that models depend on, but for the seed.
      index: of the seed.
      make: makes it.
    """
    if made_for != self._made_for:
      self._made_for, self._by_seed = made_for, {}
    if index not in self._by_seed:
      self._by_seed[index] = make()
    return self._by_seed[index]
