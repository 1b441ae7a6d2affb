"""Memory of this process: how much it took, and what it has freed and the C library keeps."""

import ctypes
import importlib
import sys


def peak_bytes() -> int:
  """The most memory that this process has occupied; 0 on Windows, which does not say."""
  if sys.platform == "win32":
    return 0
  resource = importlib.import_module("resource")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == "darwin" else 1024)


def give_back() -> None:
  """Returns it to the system, where glibc is the C library; elsewhere nothing is done.

  XLA frees a gigabyte when it has compiled a program at the paper's sizes, in pieces between what
  stays, so that glibc by itself returns none of it.
  """
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
  if trim is not None:
    trim(0)
