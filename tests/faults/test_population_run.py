"""A population of real processes, harmed."""

import os
import signal

import psutil
import pytest
from launched import Launched

from unsup_rule.distributed import history

_POPULATION = (
  'population.members = [["Adam.learning_rate = 1e-2"], ["Adam.learning_rate = 1e-3"]]',
  "population.mutator = @WinnerTakeAllGenetic()",
  "population.fitness_fn = @size_of_theta",
  "population.evaluate_every_updates = 20",
  "WinnerTakeAllGenetic.mutate_fn = @perturb",
  "WinnerTakeAllGenetic.steps_per_exploit = 60",
)


def _pid_of(run, text):
  """The process whose log in the run's folder was opened with `text` in its name."""
  for process in psutil.Process(run.process.pid).children(recursive=True):
    try:
      target = os.readlink(f"/proc/{process.pid}/fd/1")
    except OSError:
      continue
    if target.endswith(f"/{text}.txt"):
      return process.pid
  raise AssertionError(f"no {text}")


@pytest.mark.slow
def test_a_killed_controller_and_evaluator_come_back_and_ctrl_c_resumes(tmp_path):
  folder = tmp_path / "run"
  with Launched(folder, *_POPULATION) as run:

    def evaluations(at_least):
      return run.wait(lambda status: len(history.read(folder)) >= at_least, member="member_0")

    evaluations(8)
    run.remember()
    os.kill(_pid_of(run, "controller"), signal.SIGKILL)
    os.kill(_pid_of(run, "evaluator"), signal.SIGKILL)
    before = len(history.read(folder))
    evaluations(before + 8)
    assert run.log("controller").count("controller: serving") == 2
    run.interrupt()
    assert run.finish() == (130, [])
  rows = history.read(folder)
  generations = {row["generation"] for row in rows}
  # Nobody began anew: each generation descends from one that was there.
  founders = {row["generation"] for row in rows if not row["parent"]}
  assert len(founders) == 2
  assert len(generations) > 2
  assert {row["parent"] for row in rows if row["parent"]} <= generations
  # Members did learn at different rates.
  assert len({row["bindings"]["Adam.learning_rate"] for row in rows}) >= 2
  reached = min(run.status(f"member_{member}")["step"] for member in (0, 1))

  with Launched(folder, *_POPULATION, f"run_train.num_steps = {reached + 40}") as run:
    code, left = run.finish()
    assert (code, left) == (0, []), run.output()
    assert "the best of the population, fitness" in run.output()
  rows = history.read(folder)
  assert {row["generation"] for row in rows if not row["parent"]} == founders
  assert (folder / "members.png").exists()
