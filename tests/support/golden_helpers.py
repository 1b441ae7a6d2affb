"""Recordings of the authors' program, and the comparison with them."""

import numpy as np
from folders import GOLDEN

from unsup_rule.cli.verify import read_arrays
from unsup_rule.reference import trace

UPDATES = ["small_identical", "small_separate", "default"]


def golden(name):
  """Arrays of a recording, by key."""
  return read_arrays(GOLDEN / f"{name}.npz")


def check_eager(expected, recompute, given=None):
  """Run operation by operation, all that can be computed is there, and within its tolerance.

  The noise is that of the compiled program, which is quicker.
  """
  given = given or expected
  _, noise = trace.with_noise(recompute, given)
  actual = recompute(given, jit=False)
  missing = [key for key in expected if not trace.is_input(key) and key not in actual]
  assert not missing
  failed = [c for c in trace.compare(expected, actual, noise) if not c.passed]
  assert not failed
  return actual


def check_changes(expected, actual):
  """A change's learned part: 2% of it, the rest is -w/7 (docs/rule.md, 7)."""
  for key in (key for key in expected if key.startswith("change_w/")):
    np.testing.assert_allclose(actual[key], expected[key], rtol=0, atol=5e-7, err_msg=key)


def check_gradient(expected, actual):
  """Every array by its own scale."""
  for key, value in actual.items():
    # Biases before a batch norm have no gradient but rounding, which ours leaves out.
    scale = max(float(np.abs(expected[key]).max()), 1e-3)
    np.testing.assert_allclose(value, expected[key], rtol=0, atol=5e-3 * scale, err_msg=key)
