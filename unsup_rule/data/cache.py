"""Datasets on disk: one checked file each, rebuilt when damaged, written atomically."""

import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.storage import atomic_open

_MAGIC = b"unsup_rule dataset 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_ALIGNMENT = 64  # of each array in the file, so that it can be used where it was read


def default_folder() -> pathlib.Path:
  """$UNSUP_RULE_CACHE, or ~/.cache/unsup_rule."""
  folder = os.environ.get("UNSUP_RULE_CACHE") or "~/.cache/unsup_rule"
  return pathlib.Path(folder).expanduser()


def cached(key: str, folder: str | os.PathLike | None, build: Callable[[], Dataset]) -> Dataset:
  """Reads a dataset from the cache, or builds and stores it.

  A damaged file is rebuilt, and a folder that cannot be written is done without, each with a
  warning. Processes that build the same dataset at once all succeed: each writes a whole file under
  a temporary name and renames it, so the last one stays.

  Args:
    key: everything that the dataset depends on; it becomes the file's name by its hash.
    folder: the cache folder; `default_folder()` if None.
    build: makes the dataset.
  """
  folder = default_folder() if folder is None else pathlib.Path(folder).expanduser()
  path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.dataset"
  try:
    return _read(path)
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, ValueError) as error:
    warnings.warn(f"rebuilding the cache file {path}, which cannot be read: {error}", stacklevel=2)
  dataset = build()
  try:
    _write(path, dataset)
  except UnsupRuleError as error:
    warnings.warn(f"going on without a data cache: {error}", stacklevel=2)
  return dataset


def _write(path: pathlib.Path, dataset: Dataset) -> None:
  """Writes magic, SHA-256 of the rest, length of the header, JSON header, padding, arrays.

  Raises:
    UnsupRuleError: the folder cannot be written.
  """
  arrays = {
    "images": dataset.images,
    "labels": dataset.labels,
    "starts": dataset.starts,
    "counts": dataset.counts,
  }
  header = json.dumps(
    {
      "name": dataset.name,
      "split": dataset.split,
      "class_names": dataset.class_names,
      "scale": dataset.scale,
      "arrays": [(name, array.dtype.str, array.shape) for name, array in arrays.items()],
    }
  ).encode()
  blocks = [len(header).to_bytes(8, "little"), header]
  position = len(_MAGIC) + _DIGEST_SIZE + sum(map(len, blocks))
  for array in arrays.values():
    padding = -position % _ALIGNMENT
    blocks += [bytes(padding), np.ascontiguousarray(array).data.cast("B")]
    position += padding + array.nbytes
  digest = hashlib.sha256()
  for block in blocks:
    digest.update(block)
  with atomic_open(path) as stream:
    for block in (_MAGIC, digest.digest(), *blocks):
      stream.write(block)


def _read(path: pathlib.Path) -> Dataset:
  """Reads a file into one buffer and lays the arrays over it.

  Raises:
    OSError: there is no such file, or it cannot be read.
    ValueError: it is not a whole cache file.
  """
  content = np.fromfile(path, np.uint8)
  start = len(_MAGIC) + _DIGEST_SIZE
  if content[: len(_MAGIC)].tobytes() != _MAGIC:
    raise ValueError("it is not a dataset of this version")
  if hashlib.sha256(content[start:].data).digest() != content[len(_MAGIC) : start].tobytes():
    raise ValueError("its checksum is wrong")
  header_end = start + 8 + int.from_bytes(content[start : start + 8].tobytes(), "little")
  header = json.loads(content[start + 8 : header_end].tobytes())
  arrays, position = {}, header_end
  for name, dtype, shape in header["arrays"]:
    position += -position % _ALIGNMENT
    end = position + np.dtype(dtype).itemsize * int(np.prod(shape))
    arrays[name] = content[position:end].view(dtype).reshape(shape)
    position = end
  return Dataset(
    name=header["name"],
    split=header["split"],
    class_names=tuple(header["class_names"]),
    scale=header["scale"],
    **arrays,
  )
