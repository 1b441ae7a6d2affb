"""Memory that a process keeps for itself from one program to the next, on Linux with glibc."""

import ctypes
import os
import sys

# What makes glibc keep pages, for a process about to start. One arena, since those of other
# threads than the first cannot hold large blocks.
ENVIRONMENT = {
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
# The same parameters for mallopt(3).
_PARAMETERS = {"MALLOC_ARENA_MAX": -8, "MALLOC_MMAP_MAX_": -4, "MALLOC_TRIM_THRESHOLD_": -1}
_CHOSEN_BY_USER = ("GLIBC_TUNABLES", "LD_PRELOAD", *ENVIRONMENT)


def keep_pages() -> bool:
  """Has malloc keep freed memory in place of handing it back; returns whether it does.

  XLA allocates the temporaries of a program each time that it runs. glibc takes such blocks fresh
  from the kernel, which clears every page: a third of the time of the rule's gradient at the
  paper's sizes (docs/performance.md). Afterwards the process stays as large as it ever was, so
  this is for processes that do the same thing all over. Does nothing elsewhere, or where the
  environment says how to allocate.
  """
  if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN_BY_USER):
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:
    return False
  accepted = [mallopt(_PARAMETERS[name], int(value)) for name, value in ENVIRONMENT.items()]
  return all(accepted)
