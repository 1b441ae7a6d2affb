"""Recordings of the authors' program, operation by operation: as they are written, unfused.

Hundreds of programs, which the tests share while nothing else fills the memory; the largest are
for `make test-slow`.
"""

import functools

import pytest
from golden_helpers import check, check_gradient, check_update, golden

from unsup_rule.reference import trace

pytestmark = pytest.mark.usefixtures("little_memory")


@pytest.mark.parametrize(
  "name", ["small_identical", "small_separate", pytest.param("default", marks=pytest.mark.slow)]
)
def test_update(name, strict):
  check_update(golden(name), jit=False)


@pytest.mark.slow
def test_gradient(strict):
  check_gradient(golden("small_separate_grads"), golden("small_separate"), jit=False)


def test_probe(strict):
  check(golden("linreg"), functools.partial(trace.recompute_probe, jit=False))
