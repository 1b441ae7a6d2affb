"""Rows of a data matrix, dense or sparse: how they are taken, joined and sampled."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from scipy import sparse

from unsup_rule.errors import UnsupRuleError

# Rows that the frozen statistics are taken over, at most.
SAMPLED = 4096
_SAMPLED_NUMBERS = 2**26  # of all of them; half a gigabyte
# Squares of what the network computes with must be float32 numbers, and sums of them.
_LARGEST = 1e15


Matrix: TypeAlias = np.ndarray | sparse.csr_matrix  # [n, n_0]


def dense(rows: Matrix) -> np.ndarray:
  """The same as an array."""
  return np.asarray(rows.toarray()) if isinstance(rows, sparse.csr_matrix) else rows


def joined(first: np.ndarray, second: Matrix) -> Matrix:
  """The rows of `first`, then those of `second`, sparse if the latter are."""
  if not len(first):
    return second
  if isinstance(second, sparse.csr_matrix):
    return sparse.csr_matrix(sparse.vstack([sparse.csr_matrix(first), second]))
  return np.concatenate([first, second])


def check_size(values: np.ndarray, raw: np.ndarray, names: Sequence[str] | None) -> None:
  """Refuses values that float32 cannot be computed with.

  Args:
    values: [.., n_0], as the network would get them.
    raw: the same as the user gave them.
    names: of the columns, or None.

  Raises:
    UnsupRuleError: names the column and the value.
  """
  if not values.size or (largest := np.abs(values)).max() <= _LARGEST:
    return
  place = np.unravel_index(np.argmax(largest), largest.shape)
  column = int(place[-1])
  name = f"column {column}" if names is None else f"column {names[column]!r}"
  raise UnsupRuleError(
    f"{name} holds {raw[place]:.3g}, too large to be computed with; replace it if it stands for a "
    "missing value, or divide all inputs by a common factor"
  )


class Sample:
  """A random sample of all rows that were added, each as likely: reservoir sampling.

  It depends on the rows and their order, and not on how they were cut into calls.

  Attributes:
    most: rows of a full one: SAMPLED, or fewer where each has more than 16,384 columns.
    rows: those of the sample, [at most `most`, n_0].
    n_seen: rows added.
  """

  def __init__(self, n_inputs: int):
    self.most = max(2, min(SAMPLED, _SAMPLED_NUMBERS // max(n_inputs, 1)))
    self.rows = np.zeros((0, n_inputs))
    self.n_seen = 0

  def add(self, rows: Matrix, random: np.random.RandomState) -> None:
    """Adds rows."""
    n = rows.shape[0]  # pyright: ignore[reportOptionalSubscript]
    room = min(self.most - len(self.rows), n)
    if room:
      self.rows = np.concatenate([self.rows.astype(rows.dtype), dense(rows[:room])])
    numbers = np.arange(room, n)
    places = np.floor(random.random_sample(n - room) * (self.n_seen + numbers + 1)).astype(int)
    taken = places < self.most
    # Where two rows take one place, the later one stays.
    self.rows[places[taken]] = dense(rows[numbers[taken]])  # pyright: ignore[reportOptionalSubscript]
    self.n_seen += n
