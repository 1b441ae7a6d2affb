"""The authors' checkpoints."""

import pathlib
import shutil

import numpy as np
import pytest
from folders import GOLDEN

from unsup_rule.cli.main import main
from unsup_rule.cli.verify import read_arrays
from unsup_rule.machine import scratch
from unsup_rule.meta.checkpoint import load_theta
from unsup_rule.reference.tf_names import theta_from_tf


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
  out = tmp_path_factory.mktemp("imported") / "theta"
  assert main(["import-tf", str(GOLDEN / "default_ckpt" / "tf_graph_data.ckpt"), str(out)]) == 0
  return out


def test_imports_every_parameter(imported):
  trace = read_arrays(GOLDEN / "default.npz")
  expected = theta_from_tf(
    {k.removeprefix("theta/"): v for k, v in trace.items() if k.startswith("theta/")}
  )
  theta = load_theta(imported, expected)
  assert sum(leaf.size for leaves in theta.values() for leaf in leaves.values()) == 114_670
  for module, leaves in expected.items():
    for leaf, value in leaves.items():
      np.testing.assert_array_equal(theta[module][leaf], value, err_msg=f"{module}/{leaf}")


def test_paths_that_look_like_patterns_are_read(imported, tmp_path):
  shutil.copytree(GOLDEN / "default_ckpt", tmp_path / "ck=[1,2]*")
  assert main(["import-tf", str(tmp_path / "ck=[1,2]*"), str(tmp_path / "out")]) == 0
  assert (tmp_path / "out" / "params").read_bytes() == (imported / "params").read_bytes()


def test_what_a_kill_would_leave_lies_where_the_next_process_removes_it(tmp_path, monkeypatch):
  import tensorflow as tf

  seen, load = [], tf.train.load_checkpoint

  def watched(prefix):
    seen.append(pathlib.Path(prefix))
    return load(prefix)

  monkeypatch.setattr(tf.train, "load_checkpoint", watched)
  assert main(["import-tf", str(GOLDEN / "default_ckpt"), str(tmp_path / "out")]) == 0
  assert seen[0].is_relative_to(scratch.own_folder())
  assert not seen[0].parent.exists()


def test_reproduces_the_recording(imported, capsys):
  trace = str(GOLDEN / "default.npz")
  assert main(["verify", trace, "--theta", str(imported)]) == 0
  assert "FAILED" not in capsys.readouterr().out


def test_another_theta_does_not(imported, capsys):
  """--theta really is used: the default theta does not fit the small trace."""
  assert main(["verify", str(GOLDEN / "small_identical.npz"), "--theta", str(imported)]) == 2
  assert "expected float32[1, 1, 8]" in capsys.readouterr().err


def test_does_not_overwrite(imported, capsys):
  before = (imported / "params").read_bytes()
  assert main(["import-tf", str(GOLDEN / "default_ckpt"), str(imported)]) == 2
  assert "exists already" in capsys.readouterr().err
  assert (imported / "params").read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_bad_checkpoints(tmp_path, damage, capsys):
  for path in (GOLDEN / "default_ckpt").iterdir():
    content = path.read_bytes()
    if damage == "truncated":
      (tmp_path / path.name).write_bytes(content[: len(content) // 2])
  out = tmp_path / "out"
  assert main(["import-tf", str(tmp_path / "tf_graph_data.ckpt"), str(out)]) == 2
  assert capsys.readouterr().err.count("\n") == 1
  assert not out.exists()
