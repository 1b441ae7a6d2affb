"""What `verify` tells apart: float32 rounding, and a mistake in the rule."""

import functools

import numpy as np
import plain_rule
import pytest
from folders import GOLDEN
from golden_helpers import golden
from mistakes import MISTAKES

from unsup_rule.cli.main import main
from unsup_rule.reference import trace

COEFFICIENTS = "theta/MoreLocalWeightUpdateProcess/forward_weight_readout_coeffs/w"


def failed(recorded, rule):
  """Groups in which this rule in NumPy differs from a recording."""
  recompute = functools.partial(rule.recorded, dtype=np.float32, steps=1)
  comparisons = trace.compare(recorded, *trace.with_noise(recompute, recorded))
  return [c.group for c in comparisons if not c.passed]


@pytest.mark.parametrize("name", ["small_identical", "small_separate", "default"])
def test_the_rule_in_numpy_agrees(name):
  assert not failed(golden(name), plain_rule)


# With coefficients of 0.1 the merged change is small beside the 1 that it is normalised with.
@pytest.mark.parametrize("mistake", sorted(MISTAKES.keys() - {"merged change not normalised"}))
def test_a_mistake_is_found(mistake):
  assert failed(golden("small_separate"), plain_rule.spoilt(*MISTAKES[mistake]))


@pytest.fixture(scope="module")
def large_coefficients():
  """What the rule in NumPy makes of coefficients as meta-training leaves them, in float32."""
  recorded = golden("small_identical")
  recorded[COEFFICIENTS] = np.linspace(-60, 60, 12, dtype=np.float32)[:, None]
  outputs = plain_rule.recorded(recorded, np.float32, steps=5)
  return {**{k: v for k, v in recorded.items() if trace.is_input(k)}, **outputs}


def test_large_coefficients_pass(large_coefficients, tmp_path, capsys, strict):
  largest = max(np.abs(v).max() for k, v in large_coefficients.items() if k.startswith("change_w/"))
  assert largest > 0.8
  np.savez(tmp_path / "large.npz", **large_coefficients)
  assert main(["verify", str(tmp_path / "large.npz")]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_among_large_coefficients(mistake, large_coefficients):
  assert failed(large_coefficients, plain_rule.spoilt(*MISTAKES[mistake]))


@pytest.mark.parametrize("damage", range(12))
def test_a_damaged_recording_is_one_line_with_its_name(damage, tmp_path, capsys):
  content = bytearray((GOLDEN / "linreg.npz").read_bytes())
  rng = np.random.default_rng(damage)
  for place in rng.integers(0, len(content), size=1 + damage % 4):
    content[place] ^= int(rng.integers(1, 256))
  path = tmp_path / "recording.npz"
  path.write_bytes(content[: rng.integers(1, len(content))] if damage % 5 == 0 else content)
  if main(["verify", str(path)]) == 2:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
