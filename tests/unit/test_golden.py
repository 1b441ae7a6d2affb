"""Every array of every recording of the authors' program."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from folders import GOLDEN
from golden_helpers import UPDATES, check_changes, check_gradient, golden

from unsup_rule.cli.main import main
from unsup_rule.reference import trace


# Every array of each recording. First, so that the tests after it find their programs.
@pytest.mark.parametrize("name", [*UPDATES, "small_separate_grads", "linreg"])
def test_command(name, capsys, strict):
  assert main(["verify", str(GOLDEN / f"{name}.npz")]) == 0
  assert "FAILED" not in capsys.readouterr().out


def test_scanned_layers_equal_unrolled_ones(strict):
  """A capture unrolls stacked layers; without one they are scanned."""
  case = trace.read_case(golden("default"))
  assert [stack.count for stack in case.mlp.stacks] == [1, 2, 1]
  inputs = (case.theta, case.phi, case.batches[0])

  @jax.jit
  def unrolled(*inputs):
    with trace.capturing():
      return case.step(*inputs)[1]

  scanned = jax.jit(case.step)(*inputs)[1]
  for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(unrolled(*inputs)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", UPDATES)
def test_the_learned_part_of_changes(name, strict):
  expected = golden(name)
  check_changes(expected, trace.recompute_update(expected))


def test_gradients_by_their_own_scales(strict):
  expected = golden("small_separate_grads")
  check_gradient(expected, trace.recompute_gradient(expected, golden("small_separate")))


def test_probe_has_the_published_numbers(strict):
  actual = trace.recompute_probe(golden("linreg"))
  stats = [actual[f"default/stat_{name}"] for name in ("mse_test", "mse_train", "ridge_component")]
  np.testing.assert_allclose(stats, [1.146966, 0.267491, 0.003927], atol=1e-5)
  np.testing.assert_allclose(actual["default/stat_accuracy_test"], 0.60, atol=1e-6)
  np.testing.assert_allclose(actual["default/stat_accuracy_train"], 0.95, atol=1e-6)


@pytest.mark.slow
def test_command_as_users_compile():
  """The other tests are compiled quickly, with less fusion than a user's programs."""
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  paths = [str(GOLDEN / f"{name}.npz") for name in [*UPDATES, "small_separate_grads", "linreg"]]
  code = (
    "import sys; from unsup_rule.cli.main import main; "
    "sys.exit(max(main(['verify', path]) for path in sys.argv[1:]))"
  )
  command = [sys.executable, "-c", code, *paths]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout.count("largest error") == len(paths)


def perturbed(arrays, key, tmp_path):
  arrays = dict(arrays)
  arrays[key] = arrays[key] + np.float32(1e-3) * np.ones_like(arrays[key])
  path = tmp_path / "small_separate.npz"
  np.savez(path, **arrays)
  return path


@pytest.mark.parametrize(
  "key",
  [
    "theta/MoreLocalWeightUpdateProcess/forwardweight_readout_0_top/linear/w",
    "phi0/LocalWeightUpdateWLearner/LinearBatchNorm_1/linear/w",
    "terms_after/backward/w1/hebb",
    "change_w/forward/w0",
    "phi5/LocalWeightUpdateWLearner/LinearBatchNorm_4/b",
  ],
)
def test_command_notices_a_change(key, tmp_path, capsys, strict):
  path = perturbed(golden("small_separate"), key, tmp_path)
  assert main(["verify", str(path)]) == 1
  assert "FAILED" in capsys.readouterr().out


def test_command_notices_an_array_it_cannot_compute(tmp_path, capsys, strict):
  path = tmp_path / "extra.npz"
  np.savez(path, **golden("linreg"), **{"default/unheard_of": np.zeros(3)})
  assert main(["verify", str(path)]) == 1
  assert "unheard_of" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "truncated", "not_a_trace"])
def test_command_on_bad_files(damage, tmp_path, capsys):
  path = tmp_path / "trace.npz"
  if damage == "truncated":
    content = (GOLDEN / "linreg.npz").read_bytes()
    path.write_bytes(content[: len(content) // 2])
  elif damage == "not_a_trace":
    np.savez(path, weights=np.ones(3))
  assert main(["verify", str(path)]) == 2
  error = capsys.readouterr().err
  assert error.startswith("unsup-rule: error: ")
  assert error.count("\n") == 1
