"""Tables that scikit-learn ships or fetches, as users of a feature learner have them.

Columns are standardised by the mean and standard deviation of the split "train". Splits are halves
of each class. `covertype` is fetched by scikit-learn, when it is not in its folder already.
"""

from collections.abc import Callable

import numpy as np

from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError

SPLITS = ("train", "test")
_MOST = 4000  # examples of a class, the first ones; covertype has 580,000

Table = tuple[np.ndarray, np.ndarray, list[str]]  # columns [N, V], labels [N], class names


def _wine() -> Table:
  from sklearn import datasets  # Takes seconds to import.

  values, labels = datasets.load_wine(return_X_y=True)
  return np.asarray(values), np.asarray(labels), ["cultivar 0", "cultivar 1", "cultivar 2"]


def _breast_cancer() -> Table:
  from sklearn import datasets

  values, labels = datasets.load_breast_cancer(return_X_y=True)
  return np.asarray(values), np.asarray(labels), ["malignant", "benign"]


def _covertype() -> Table:
  from sklearn import datasets

  try:
    values, labels = datasets.fetch_covtype(return_X_y=True)
  except OSError as error:
    raise UnsupRuleError(
      f"cannot get data set 'covertype': {error}; fetch it where there is a network with "
      "sklearn.datasets.fetch_covtype, or leave it out"
    ) from error
  names = ["spruce", "lodgepole", "ponderosa", "willow", "aspen", "douglas", "krummholz"]
  return np.asarray(values), np.asarray(labels) - 1, names


TABLES: dict[str, Callable[[], Table]] = {
  "wine": _wine,
  "breast_cancer": _breast_cancer,
  "covertype": _covertype,
}


def half(name: str, split: str, labels: np.ndarray) -> np.ndarray:
  """Rows of a split: of each class every second one, starting with the first for "train".

  Raises:
    UnsupRuleError: an unknown split.
  """
  if split not in SPLITS:
    raise UnsupRuleError(f"data set {name!r} has no split {split!r}: choose train or test")
  first = SPLITS.index(split)
  rows = [np.flatnonzero(labels == c)[: 2 * _MOST][first::2] for c in np.unique(labels)]
  return np.sort(np.concatenate(rows))


def read(name: str, split: str) -> Dataset:
  """Reads half of a table, standardised, float32.

  Raises:
    UnsupRuleError: an unknown split, or a table that cannot be fetched.
  """
  values, labels, names = TABLES[name]()
  rows = half(name, split, labels)
  train = values[half(name, "train", labels)]
  spread = train.std(axis=0)
  columns = (values[rows] - train.mean(axis=0)) / np.where(spread > 0, spread, 1)
  return Dataset.build(name, split, columns.astype(np.float32), labels[rows], names, 1.0)
