"""One run at a time in a folder."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import filelock

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError


@contextlib.contextmanager
def exclusive(
  folder: str | os.PathLike, flag: str = "--train_log_dir", doing: str = "trains"
) -> Iterator[None]:
  """Makes `folder` where needed, checks that it can be written, and holds it for this process.

  The hold ends with the process, however that ends. What processes that were killed had begun to
  write is removed; so is the folder itself, if it was made here and got nothing.

  Args:
    folder: to hold.
    flag: of the command line that names it, for errors.
    doing: what a process does there, for errors.

  Raises:
    UnsupRuleError: the folder cannot be written, or another process is at work in it.
  """
  path = pathlib.Path(folder) / ".lock"
  try:
    new = [missing for missing in (path, *path.parents) if not missing.exists()]
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
    if path in new:
      _remove_if_alone(path, new[1:])
    lock.release()


def _remove_if_alone(path: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
  """Removes a file that nothing is beside, then folders from the innermost one outwards.

  The file is a lock still held, so that whoever opened it before sees that it is gone.
  """
  with contextlib.suppress(OSError):  # Windows keeps open files.
    if len(list(path.parent.iterdir())) == 1:
      path.unlink()
      for folder in folders:
        folder.rmdir()
