"""Recordings of the authors' program, operation by operation: as they are written, unfused.

Hundreds of programs, which the tests share while nothing else fills the memory.
"""

import functools

import pytest
from golden_helpers import UPDATES, check_changes, check_eager, check_gradient, golden

from unsup_rule.reference import trace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("little_memory")]


@pytest.mark.parametrize("name", UPDATES)
def test_update(name, strict):
  expected = golden(name)
  check_changes(expected, check_eager(expected, trace.recompute_update))


def test_gradient(strict):
  expected = golden("small_separate_grads")
  recompute = functools.partial(trace.recompute_gradient, expected)
  check_gradient(expected, check_eager(expected, recompute, golden("small_separate")))


def test_probe(strict):
  check_eager(golden("linreg"), trace.recompute_probe)
