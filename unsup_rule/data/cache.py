"""Datasets on disk: one checked file each, rebuilt when damaged, written atomically."""

import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

from unsup_rule import locations, storage
from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError

_KIND, _FORMAT = "dataset", 4
_ARRAYS = ("images", "labels")
_VALUES = ("name", "split", "class_names", "scale")


def cached(key: str, folder: str | os.PathLike | None, build: Callable[[], Dataset]) -> Dataset:
  """Reads a dataset from the cache, or builds and stores it.

  A damaged file is rebuilt, and a folder that cannot be written is done without, each with a
  warning. Processes that build the same dataset at once all succeed: each writes a whole file under
  a temporary name and renames it, so the last one stays.

  Args:
    key: everything that the dataset depends on; it becomes the file's name by its hash.
    folder: the cache folder; `locations.cache_folder()` if None.
    build: makes the dataset.
  """
  folder = locations.cache_folder() if folder is None else locations.expanded(folder)
  digest = hashlib.sha256(f"{_FORMAT} {key}".encode()).hexdigest()
  path = folder / f"{digest[:32]}.npz"
  try:
    return read(path, key)
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (UnsupRuleError, *storage.DAMAGE) as error:
    warnings.warn(f"rebuilding the cache file {path}, which cannot be read: {error}", stacklevel=2)
  dataset = build()
  try:
    write(path, dataset, key)
  except UnsupRuleError as error:
    warnings.warn(f"going on without a data cache: {error}", stacklevel=2)
  return dataset


def write(path: pathlib.Path, dataset: Dataset, key: str) -> None:
  """Writes a dataset to one file, atomically, with the key that it is for."""
  values = {name: getattr(dataset, name) for name in _VALUES}
  arrays = {name: getattr(dataset, name) for name in _ARRAYS}
  storage.Container(_KIND, _FORMAT, arrays, {"key": key, **values}).write(path)


def read(path: pathlib.Path, key: str) -> Dataset:
  """Reads what `write` wrote.

  Raises:
    UnsupRuleError: the file is damaged, another thing, or for another key.
    OSError: it cannot be read.
  """
  found = storage.Container.read(path, _KIND, [_FORMAT])
  if found.values["key"] != key:
    raise storage.DamagedError(path, f"it is for {found.values['key']!r}, not for {key!r}")
  values: dict[str, Any] = {name: found.values[name] for name in _VALUES}
  values["class_names"] = tuple(values["class_names"])
  return Dataset(**found.arrays, **values)
