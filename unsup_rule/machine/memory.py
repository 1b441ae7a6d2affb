"""Memory that this process has freed and the C library keeps."""

import ctypes
import sys


def give_back() -> None:
  """Returns it to the system, where glibc is the C library; elsewhere nothing is done.

  XLA frees a gigabyte when it has compiled a program at the paper's sizes, in pieces between what
  stays, so that glibc by itself returns none of it.
  """
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
  if trim is not None:
    trim(0)
