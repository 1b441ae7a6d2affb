"""Durable file writes: a temporary name, fsync, rename, so that no crash leaves half a file."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from unsup_rule.errors import UnsupRuleError


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Opens `path` for writing bytes; the old file stays until the new one is complete and synced.

  Raises:
    UnsupRuleError: the folder cannot be written (permissions, full disk); the old file is intact.
  """
  target = pathlib.Path(path)
  temporary = None
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
      prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
    )
    with os.fdopen(descriptor, "wb") as stream:
      yield stream
      stream.flush()
      os.fsync(stream.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    os.replace(temporary, target)
    temporary = None
    _sync_folder(target.parent)
  except OSError as error:
    raise UnsupRuleError(
      f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
    ) from error
  finally:
    if temporary is not None:
      with contextlib.suppress(OSError):
        os.unlink(temporary)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes `content` to `path` atomically and durably."""
  with atomic_open(path) as stream:
    stream.write(content)


def write_text(path: str | os.PathLike, content: str) -> None:
  """Writes UTF-8 text to `path` atomically and durably."""
  write_bytes(path, content.encode())


def private_folder(path: str | os.PathLike) -> pathlib.Path:
  """Makes a folder that its owner alone may use, and returns its path.

  Raises:
    UnsupRuleError: it cannot be made, or belongs to somebody else.
  """
  folder = pathlib.Path(path)
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
      raise UnsupRuleError(f"{folder} belongs to another user; remove it or choose another folder")
    folder.chmod(0o700)
  except OSError as error:
    raise UnsupRuleError(
      f"cannot make {folder}: {error.strerror or error}; choose another folder"
    ) from error
  return folder


def _sync_folder(folder: pathlib.Path) -> None:
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
