"""One run at a time in a folder."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import filelock

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError


@contextlib.contextmanager
def exclusive(
  folder: str | os.PathLike, flag: str = "--train_log_dir", doing: str = "trains"
) -> Iterator[None]:
  """Makes `folder` where needed, checks that it can be written, and holds it for this process.

  The hold ends with the process, however that ends. What processes that were killed had begun to
  write is removed.

  Args:
    folder: to hold.
    flag: of the command line that names it, for errors.
    doing: what a process does there, for errors.

  Raises:
    UnsupRuleError: the folder cannot be written, or another process is at work in it.
  """
  path = pathlib.Path(folder) / ".lock"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=0)
    lock.acquire()
  except filelock.Timeout as error:
    raise UnsupRuleError(
      f"another process {doing} in {folder}; wait for it, or choose another {flag}"
    ) from error
  except OSError as error:
    raise UnsupRuleError(
      f"cannot write in {folder}: {error.strerror}; choose another {flag}"
    ) from error
  try:
    storage.remove_temporary(path.parent)
    yield
  finally:
    lock.release()
