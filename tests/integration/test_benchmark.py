"""The counts and the command behind `make bench`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator, features, gradient_noise
from benchmarks.cases import CASES, Case
from unsup_rule.cli.main import main
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine.counting import needs


def test_counts_a_product():
  a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
  assert needs(jnp.matmul, a, b) == (2 * 3 * 5 * 7, 4 * (15 + 35 + 21))


def test_counts_a_scan_as_often_as_it_runs():
  def program(a):
    return jax.lax.scan(lambda c, _: (c @ a, None), a, length=6)[0]

  assert needs(program, jnp.ones((4, 4))).operations == 6 * 2 * 4**3


def test_paper_size_by_formula():
  """3.6 GFLOP an application: six convolutions a layer, and what little comes beside them."""
  need = needs(CASES["paper"].apply, *jax.eval_shape(CASES["paper"].arguments))
  units = 4 * 128 + 32 + 196
  convolutions = 2 * 32 * units * 3 * 64 * (45 + 5 * 64)
  assert convolutions < need.operations < 1.35 * convolutions
  assert 3.4e9 < need.operations < 4.4e9


def test_gradient_needs_about_three_times_the_arithmetic():
  case = Case(side=4, hidden=(8,), channels=8, delta=4, batch=8)
  arguments = jax.eval_shape(case.arguments)
  forward = needs(case.apply, *arguments).operations
  gradient = needs(case.gradient, *arguments).operations
  assert 2.5 < gradient / forward < 3.5


@pytest.mark.slow
def test_command(tmp_path, capsys):
  out, before = tmp_path / "bench.json", tmp_path / "before.json"
  earlier = {"name": "peak_megabytes", "size": "laptop", "value": 1e-3, "unit": "MB", "limit": None}
  before.write_text(json.dumps([earlier]))
  arguments = ["bench", "--sizes", "laptop", "--tasks", "1", "--out", str(out)]
  assert main([*arguments, "--against", str(before)]) == 0
  rows = json.loads(out.read_text())
  assert all(set(row) == {"name", "size", "value", "unit", "limit"} for row in rows)
  found = {row["name"]: row["value"] for row in rows if row["size"] == "laptop"}
  for name in ("forward_matmuls", "gradient_over_forward", "compile_seconds", "peak_megabytes"):
    assert found[name] > 0
  (compared,) = [line for line in capsys.readouterr().out.splitlines() if "x before" in line]
  assert compared.split()[:2] == ["laptop", "peak_megabytes"]
  assert float(compared.split()[-3]) == pytest.approx(found["peak_megabytes"] * 1e3, rel=0.01)


@pytest.mark.slow
def test_the_accelerator_script_measures_what_there_is(tmp_path, capsys):
  """Here a processor; agreement with recordings has tests of its own."""
  out = tmp_path / "accelerator.json"
  accelerator.measure(out, seconds=30, golden=())
  rows = json.loads(out.read_text())
  assert [row for row in rows if "failed" in row] == []
  found = {row["what"]: row for row in rows}
  assert {"device", "product", "copy", "forward", "gradient"} < set(found)
  assert found["estimate"]["inner_steps_per_second"] > 0
  assert found["outer step"]["seconds"] > 0
  assert found["training"]["steps"] > 0
  assert rows[-1]["what"] == "done"
  capsys.readouterr()


def test_unknown_size(capsys):
  assert main(["bench", "--sizes", "papre"]) == 2
  assert "choose from" in capsys.readouterr().err


@pytest.mark.slow
def test_features_beside_other_ways(tmp_path, capsys, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)  # Timed is what users compile.
  out = tmp_path / "features.json"
  assert main(["bench", "--features", "300", "40", "--out", str(out)]) == 0
  rows = {row["method"]: row for row in json.loads(out.read_text())}
  assert set(rows) == {"UnsupervisedFeatures", "PCA", "KMeans", "MLP autoencoder"}
  assert all(row["fit_seconds"] > 0 and row["megabytes"] > 0 for row in rows.values())
  assert rows["UnsupervisedFeatures"]["again_seconds"] < rows["UnsupervisedFeatures"]["fit_seconds"]
  assert "transform" in capsys.readouterr().out


def test_a_method_that_fails_is_one_line():
  with pytest.raises(UnsupRuleError, match=r"PCA failed on 3 x 6: ValueError: .*; try fewer rows"):
    features.cost("PCA", 3, 6)


def test_statistics_of_gradients():
  """2,000 tasks of variance 3 over three numbers, each with three gradients of variance 6 more."""
  random = np.random.default_rng(0)
  mean = np.array([2.0, 0.0, -1.0])
  tasks = mean + random.normal(size=(2000, 1, 3))
  found = gradient_noise.statistics(tasks + np.sqrt(2) * random.normal(size=(2000, 3, 3)))
  assert found["variance_within_tasks"] == pytest.approx(6, rel=0.03)
  assert found["variance_between_tasks"] == pytest.approx(3, rel=0.1)
  assert found["squared_mean"] == pytest.approx(5, rel=0.05)
  assert found["noise_scale"] == pytest.approx(9 / 5, rel=0.1)
  # A task's mean of three has the variance 1 + 2 / 3 in each number: 4 * 5 / 3 * |mean|^2 / N.
  assert found["squared_mean_error"] == pytest.approx(np.sqrt(4 * (5 / 3) * 5 / 2000), rel=0.1)


def test_no_noise_scale_where_the_mean_is_within_the_noise():
  gradients = np.random.default_rng(1).normal(size=(8, 2, 50))
  found = gradient_noise.statistics(gradients)
  assert found["noise_scale"] is None
  assert abs(found["squared_mean"]) < 2 * found["squared_mean_error"]


@pytest.mark.slow
def test_gradient_noise_of_a_gin_file(capsys, monkeypatch):
  arguments = ["--config_file=gin/laptop.gin", "--tasks=3"]
  monkeypatch.setattr("sys.argv", ["gradient_noise", *arguments])
  gradient_noise.main()
  printed = capsys.readouterr()
  found = json.loads(printed.out)
  assert found["tasks"] == 3
  assert found["variance_within_tasks"] > 0
  assert "task 3/3" in printed.err
