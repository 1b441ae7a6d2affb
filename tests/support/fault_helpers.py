"""Faults that tests inject for real."""

import contextlib
import resource


@contextlib.contextmanager
def largest_file(size):
  """The kernel refuses to let any file grow beyond `size` bytes, as a full disk would."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
