"""Models that this process trained last: what reads the same ones in another way shares them."""

import time
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
    self._by_seed: dict[int, tuple[T, float]] = {}

  def get(self, made_for: Hashable, index: int, make: Callable[[], T]) -> tuple[T, float]:
    """The model of a seed, made if it is not there, and the processor seconds that it borrows.

    Args:
      made_for: all that models depend on, but for the seed.
      index: of the seed.
      make: makes it.

    Returns:
      The model, and the seconds that it once took; 0 if they are spent in this call.
    """
    if made_for != self._made_for:
      self._made_for, self._by_seed = made_for, {}
    if index in self._by_seed:
      return self._by_seed[index]
    start = time.process_time()
    model = make()
    self._by_seed[index] = model, time.process_time() - start
    return model, 0.0
