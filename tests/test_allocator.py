"""Freed memory that stays with the process."""

import os
import subprocess
import sys

import pytest

from unsup_rule import allocator

_PROGRAM = """
import resource, sys
from unsup_rule import allocator
kept = "--keep" in sys.argv and allocator.keep_pages()
def touch():
  bytearray(64 * 2**20)  # Zeroed, so that every page is there.
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
  touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(*flags, **environment):
  plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, *flags],
    env={**plain, **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  kept, faults = done.stdout.split()
  return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told")
def test_a_large_block_is_not_taken_fresh_from_the_kernel():
  before, after = _faults(), _faults("--keep")
  assert after[0]
  assert before[1] > 4000
  assert after[1] < before[1] / 10
  assert _faults(**allocator.ENVIRONMENT)[1] < before[1] / 10


def test_the_user_has_the_last_word():
  kept, _ = _faults("--keep", MALLOC_ARENA_MAX="2")
  assert not kept
