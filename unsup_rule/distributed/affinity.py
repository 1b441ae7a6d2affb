"""One core for each worker process, without anyone to assign them."""

import contextlib
import os
import pathlib
import tempfile

import filelock

from unsup_rule import locations
from unsup_rule.errors import UnsupRuleError

# Held as long as the process lives; the kernel lets go of the lock however it ends.
_held: dict[int, filelock.BaseFileLock] = {}


def pin_to_a_free_core(folder: pathlib.Path | None = None) -> int | None:
  """Binds this process, all its threads, to a core that no other worker on this machine has.

  Call it before jax computes anything: XLA sizes its thread pool by the cores it may use.

  Args:
    folder: where the locks are, one file for each core; one of the user's by default.

  Returns:
    The core, the same one if called again; None, and nothing changed, where each is taken or the
    system knows no affinity, or another user has the folder.
  """
  if _held:
    return next(iter(_held))
  if not hasattr(os, "sched_setaffinity"):
    return None
  folder = (
    folder or pathlib.Path(tempfile.gettempdir()) / f"unsup-rule-cores-{locations.user_number()}"
  )
  try:
    locations.private_folder(folder)
  except UnsupRuleError:  # Somebody else made it: workers do without cores of their own.
    return None
  for core in sorted(os.sched_getaffinity(0)):
    lock = filelock.FileLock(folder / str(core), timeout=0)
    try:
      lock.acquire()
    except filelock.Timeout:
      continue
    _held[core] = lock
    for thread in os.listdir("/proc/self/task"):
      with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(int(thread), {core})
    return core
  return None
