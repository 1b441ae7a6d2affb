"""Processes of a real run are killed, stopped and started again."""

import csv
import os
import pathlib
import shutil
import signal
import stat
import tempfile
import time

import jax
import numpy as np
import psutil
import pytest
from launched import Launched, all_workers_send
from learned_optimization.learned_optimizers import base as lopt_base

from unsup_rule.meta import checkpoint

_LOST = 50  # distributed.checkpoint_every_updates


def _steps(folder):
  with open(folder / "curve.csv", newline="") as stream:
    return [int(row["step"]) for row in csv.DictReader(stream)]


@pytest.fixture
def short_folder():
  """Ray's sockets need paths shorter than pytest's."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix="ut-"))
  yield folder
  shutil.rmtree(folder)


@pytest.mark.slow
def test_kills_cost_little_and_ctrl_c_leaves_a_run_that_goes_on(tmp_path, short_folder):
  folder = tmp_path / "run"
  with Launched(folder, environment={"TMPDIR": str(short_folder)}) as run:
    before = run.wait(lambda status: all_workers_send(status) and status["step"] > 100)

    # What Ray has on disk, the token above all, is its owner's alone.
    (private,) = short_folder.glob("ur-*")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "token").stat().st_mode) == 0o600

    # Large blocks of a worker are in huge pages, which only its start can ask for.
    environment = psutil.Process(before["workers"]["0"]["pid"]).environ()
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"

    # A worker: Ray starts it anew, with another stream, while the other one goes on.
    os.kill(before["workers"]["0"]["pid"], signal.SIGKILL)
    after = run.wait(
      lambda status: (
        status["workers"]["0"]["restarts"] == 1
        and status["workers"]["0"]["gradients"] > before["workers"]["0"]["gradients"] + 20
      )
    )
    assert after["workers"]["0"]["pid"] != before["workers"]["0"]["pid"]
    assert after["workers"]["1"]["restarts"] == 0
    assert after["learner_restarts"] == 0
    assert "worker 0: start 0" in run.log("worker_0")
    assert "worker 0: start 1" in run.log("worker_0")

    # The learner: it goes on from its last checkpoint, and the workers come back by themselves.
    reached = run.status()["step"]
    run.remember()
    os.kill(after["pid"], signal.SIGKILL)
    again = run.wait(
      lambda status: status["learner_restarts"] == 1 and all_workers_send(status, at_least=20)
    )
    assert again["pid"] != after["pid"]
    assert {worker["pid"] for worker in again["workers"].values()} == {
      worker["pid"] for worker in after["workers"].values()
    }
    learner_starts = run.log("learner").count("learner: process")
    assert learner_starts == 2
    resumed = int(run.log("learner").rsplit("goes on from update ", 1)[1].split()[0])
    assert reached - _LOST <= resumed

    run.interrupt()
    code, left = run.finish()
    assert (code, left) == (130, [])
    assert not list(short_folder.glob("ur-*"))
    stopped = run.status()
    assert stopped["state"] == "stopped"
    assert checkpoint.load_state(folder)["step"] == stopped["step"] == stopped["saved_step"]
    assert _steps(folder) == list(range(1, stopped["step"] + 1))

  newest = folder / f"checkpoint_{stopped['step']}"
  with open(newest, "r+b") as stream:
    stream.truncate(newest.stat().st_size // 2)
  n_steps = stopped["step"] + 30
  with Launched(folder, f"run_train.num_steps = {n_steps}") as run:
    code, left = run.finish()
    assert (code, left) == (0, []), run.output()
    assert f"checkpoint_{stopped['step']} is damaged" in run.log("learner")
    assert run.status()["state"] == "finished"
    # Numbered on from what the processes before them were.
    assert "worker 0: start 2" in run.log("worker_0")
  assert _steps(folder) == list(range(1, n_steps + 1))
  theta = checkpoint.load_theta(folder, lopt_base.LearnableAdam().init(jax.random.PRNGKey(0)))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree_util.tree_leaves(theta))
  assert (folder / "summary.json").exists()


@pytest.mark.slow
def test_workers_that_gave_up_are_started_again_in_the_same_process(tmp_path):
  """As after a break of the network that is longer than a call's deadline."""
  with Launched(tmp_path / "run", "distributed.call_deadline_seconds = 6") as run:
    before = run.wait(all_workers_send)
    os.kill(before["pid"], signal.SIGSTOP)
    time.sleep(9)
    os.kill(before["pid"], signal.SIGCONT)
    after = run.wait(
      lambda status: all(
        worker["restarts"] >= 1 and worker["gradients"] > before["workers"][index]["gradients"] + 5
        for index, worker in status["workers"].items()
      )
    )
    assert after["pid"] == before["pid"]
    assert after["learner_restarts"] == 0
    for index, worker in after["workers"].items():
      assert worker["pid"] == before["workers"][index]["pid"]
      # It keeps its core; one that found each taken, by another run here, may have found one since.
      assert before["workers"][index]["core"] in (None, worker["core"])
    run.interrupt()
    assert run.finish() == (130, [])
    assert "to exchange for 6 s" in run.output()


@pytest.mark.slow
def test_without_rays_control_process_a_run_saves_and_ends_within_a_minute(tmp_path):
  folder = tmp_path / "run"
  with Launched(folder) as run:
    run.wait(lambda status: all_workers_send(status) and status["step"] > 20)
    run.remember()
    (control,) = [
      process
      for process in psutil.Process(run.process.pid).children(recursive=True)
      if process.name() == "gcs_server"
    ]
    began = time.monotonic()
    control.kill()
    code, left = run.finish(70)
    assert (code, left) == (2, [])
    assert time.monotonic() - began < 60
    lines = run.output().strip().splitlines()
    assert lines[-1].startswith("unsup-rule: error: Ray's control process at ")
    assert lines[-1].endswith(
      "the run goes on from where it is, all is saved, when it is started again"
    )
    assert not any("Traceback" in line or "GCS" in line for line in lines)
    stopped = run.status()
  assert stopped["state"] == "stopped"
  assert checkpoint.load_state(folder)["step"] == stopped["step"]
  assert _steps(folder) == list(range(1, stopped["step"] + 1))


@pytest.mark.slow
def test_when_every_worker_fails_the_run_ends_and_says_why(tmp_path):
  with Launched(
    tmp_path / "run", "build_gradient_estimators.sample_task_family_fn = @no_family", workers=1
  ) as run:
    code, left = run.finish()
    assert (code, left) == (2, [])
    last = run.output().splitlines()[-1]
    assert last.startswith("unsup-rule: error: no worker is left, the last one said: ")
    assert "there are no families today" in last
  # Theta is saved, and the run can go on with another configuration of the workers.
  assert checkpoint.load_state(tmp_path / "run")["step"] == 0
