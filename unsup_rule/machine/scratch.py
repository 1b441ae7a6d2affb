"""A folder in the shared temporary one for this process alone, whose leftovers the next removes."""

import atexit
import contextlib
import functools
import os
import pathlib
import shutil
import stat
import tempfile
import time

import filelock

from unsup_rule import locations

# A socket's path has at most 107 characters, of which Ray takes some 75.
_LONGEST_SHARED = 20
_PREFIX, _LOCK = "ur-", ".lock"
_SETTLED_SECONDS = 60.0


@functools.cache  # Ray reads its token once in the life of a process.
def own_folder() -> pathlib.Path:
  """Makes a folder for this process alone, and removes those that killed processes left.

  Its path is short, as those of sockets must be.
  """
  shared = tempfile.gettempdir()
  if len(shared) > _LONGEST_SHARED:
    # Batch systems give each job a long one.
    shared = next((one for one in ("/tmp", "/var/tmp") if os.access(one, os.W_OK)), shared)
  for left in pathlib.Path(shared).glob(f"{_PREFIX}*"):
    with contextlib.suppress(OSError, filelock.Timeout):
      _remove_if_left(left)
  folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=shared))
  lock = filelock.FileLock(folder / _LOCK)
  lock.acquire()  # The system lets go of it however the process ends.
  atexit.register(lock.release)
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder


def _remove_if_left(folder: pathlib.Path) -> None:
  """Removes a folder of this user's that nobody holds; raises where that cannot be done."""
  about = folder.lstat()
  # One that was made just now may be about to be locked.
  settled = time.time() - about.st_mtime > _SETTLED_SECONDS
  own = stat.S_ISDIR(about.st_mode) and about.st_uid == locations.user_number()
  if own and settled and (folder / _LOCK).is_file():
    with filelock.FileLock(folder / _LOCK, timeout=0):
      shutil.rmtree(folder, ignore_errors=True)
