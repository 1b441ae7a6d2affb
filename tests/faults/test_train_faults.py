"""`unsup-rule train` killed, interrupted and without room on the disk."""

import json
import pathlib
import resource
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import meta_problems
import numpy as np
import pytest
from learned_optimization.learned_optimizers import base as lopt_base

from unsup_rule import compat
from unsup_rule.meta import checkpoint

_STEPS = 200


def _start(folder, *bindings, before=None, output=None) -> subprocess.Popen:
  """Starts `unsup-rule train` on small quadratics in a process of its own."""
  gin_file = folder.parent / "quadratics.gin"
  gin_file.write_text(meta_problems.GIN)
  arguments = [
    "train",
    f"--train_log_dir={folder}",
    f"--config_file={gin_file}",
    "--gin_import=meta_problems",
    *(f"--gin_bindings={b}" for b in bindings),
  ]
  return subprocess.Popen(
    [sys.executable, "-m", "unsup_rule", *arguments],
    stdout=output,
    stderr=output or subprocess.PIPE,
    text=True,
    preexec_fn=before,
  )


def _finish(process: subprocess.Popen) -> tuple[int, str]:
  try:
    _, errors = process.communicate(timeout=300)
  finally:
    process.kill()
  return process.returncode, errors


def _signal_at(process: subprocess.Popen, folder: pathlib.Path, step: int, number: int):
  """Sends a signal once the curve has that step; returns as `_finish`."""
  deadline = time.monotonic() + 300
  while process.poll() is None and time.monotonic() < deadline:
    curve = folder / "curve.csv"
    if curve.exists() and f"\n{step}," in curve.read_text():
      process.send_signal(number)
      break
    time.sleep(0.002)
  return _finish(process)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> pathlib.Path:
  """A run without a break."""
  folder = tmp_path_factory.mktemp("straight") / "run"
  code, errors = _finish(_start(folder))
  assert code == 0, errors
  return folder


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_like_one_without_a_break(straight, tmp_path):
  folder = tmp_path / "run"
  often = "trainer.checkpoint_every_seconds = 1e-9"
  code, errors = _signal_at(_start(folder, often), folder, 20, signal.SIGKILL)
  assert code == -signal.SIGKILL, errors
  # The kill may have come in the middle of a write; make sure that something is broken.
  newest = folder / f"checkpoint_{checkpoint.load_state(folder)['step']}"
  newest.write_bytes(newest.read_bytes()[:1000])

  code, errors = _signal_at(_start(folder, often), folder, 60, signal.SIGINT)
  assert code == 130, errors
  reason = "no checkpoint in it: its end is missing"
  assert f"{newest} is damaged ({reason}); trying the one before it" in errors
  assert "stopping after this step" in errors
  assert "Traceback" not in errors
  assert 60 <= checkpoint.load_state(folder)["step"] < _STEPS

  code, errors = _finish(_start(folder))
  assert code == 0, errors
  # A third start finds the run complete.
  assert _finish(_start(folder)) == (0, "")
  broken, whole = (checkpoint.load_state(path) for path in (folder, straight))
  assert broken.pop("seconds") != whole.pop("seconds")
  assert _bytes(broken) == _bytes(whole)
  assert (folder / "params").read_bytes() == (straight / "params").read_bytes()
  # Times differ; all else in the curves and the summaries is the same, to the last digit.
  curves = [
    [line.split(",") for line in (path / "curve.csv").read_text().splitlines()]
    for path in (folder, straight)
  ]
  assert len(curves[0]) == _STEPS + 1
  assert [row[:1] + row[2:] for row in curves[0]] == [row[:1] + row[2:] for row in curves[1]]
  summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, straight)]
  for summary in summaries:
    assert summary.pop("seconds") > 0
  assert summaries[0] == summaries[1]
  assert summaries[0]["heldout_accuracy_before"] != summaries[0]["heldout_accuracy_after"]


def _bytes(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree_util.tree_leaves(tree)]


@pytest.mark.slow
@pytest.mark.skipif(not compat.IS_HEAD, reason="release 0.0.1 has no opt_from_checkpoint")
def test_the_library_loads_what_a_run_leaves(straight):
  from learned_optimization.learned_optimizers import opt_from_checkpoint

  optimizer = opt_from_checkpoint.opt_from_checkpoint(str(straight / "params"))
  lopt = lopt_base.LearnableAdam()
  theta = checkpoint.load_theta(straight, lopt.init(jax.random.PRNGKey(0)))
  ours, gradient = lopt.opt_fn(theta), jnp.asarray([1.0, -2.0])
  found, wanted = (
    opt.get_params(opt.update(opt.init(gradient), gradient, loss=1.0)) for opt in (optimizer, ours)
  )
  np.testing.assert_array_equal(found, wanted)
  assert (found != gradient).all()


@pytest.mark.slow
def test_a_full_disk_shows_before_training(tmp_path):
  def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

  code, errors = _finish(_start(tmp_path / "run", "truncated_grad.num_tasks = 100", before=limit))
  assert code == 2
  assert errors.splitlines()[-1].startswith(
    f"unsup-rule: error: cannot write {tmp_path}/run/checkpoint_0: File too large; free space"
  )
  assert "Traceback" not in errors
  assert "compiling" not in errors


def test_output_that_cannot_be_written_does_not_end_a_run(tmp_path):
  with open("/dev/full", "w") as full:
    process = _start(tmp_path / "run", "run_train.num_steps=3", output=full)
    assert process.wait(300) == 0
  assert json.loads((tmp_path / "run" / "summary.json").read_text())["outer_steps"] == 3
