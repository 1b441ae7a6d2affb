"""Opening what must be a file: a pipe or a device in its place is an error, and not waited for."""

import errno
import os
import stat
from typing import BinaryIO


def opened(path: str | os.PathLike) -> BinaryIO:
  """Opens a file for reading bytes.

  Raises:
    OSError: there is no such file, it cannot be read, or it is no file.
  """
  flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
  stream = os.fdopen(os.open(path, flags), "rb")  # Which refuses a folder.
  if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
    stream.close()
    raise OSError(errno.ENXIO, "it is no regular file", os.fspath(path))
  return stream


def text(path: str | os.PathLike) -> str:
  """The UTF-8 text of a file.

  Raises:
    OSError: as `opened`.
    UnicodeDecodeError: it is another encoding, or damaged.
  """
  with opened(path) as stream:
    return stream.read().decode()
