"""`unsup-rule launch` in a process of its own, on small quadratics, for tests that harm it."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil

QUADRATICS = """
run_train.lopt = @LearnableAdam()
run_train.num_estimators = 1
run_train.num_steps = 1000000
run_train.staleness = 8
run_train.stochastic_resample_frequency = 10
GradientLearner.theta_opt = @Adam()
Adam.learning_rate = 1e-2
build_gradient_estimators.sample_task_family_fn = @paced_quadratics
build_gradient_estimators.gradient_estimator_fn = @truncated_grad
truncated_grad.num_tasks = 2
truncated_grad.unroll_length = 2
truncated_grad.trunc_sched = @ConstantTruncationSchedule()
ConstantTruncationSchedule.total_length = 5
distributed.call_deadline_seconds = 90
trainer.seed = 3
trainer.heldout_fn = @size_of_theta
"""


class Launched:
  """One start of the command, by way of another one if it is given."""

  def __init__(self, folder, *bindings, workers=2, flags=(), environment=None, through=()):
    gin_file = folder.parent / "quadratics.gin"
    gin_file.write_text(QUADRATICS)
    self.folder = folder
    self._output = folder.parent / f"output_{time.monotonic_ns()}.txt"
    with open(self._output, "w") as stream:
      self.process = subprocess.Popen(
        [
          *through,
          *(sys.executable, "-m", "unsup_rule", "launch", f"--train_log_dir={folder}"),
          *(f"--config_file={gin_file}", "--gin_import=meta_problems", f"--workers={workers}"),
          *(f"--gin_bindings={binding}" for binding in bindings),
          *flags,
        ],
        env={**os.environ, **(environment or {})},
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
    self._family = []

  def __enter__(self):
    return self

  def __exit__(self, *unused_error):
    self.remember()
    if self.process.poll() is None:
      os.killpg(self.process.pid, signal.SIGKILL)
      self.process.wait()
    for process in psutil.wait_procs(self._family, timeout=5)[1]:
      process.kill()

  def output(self):
    return self._output.read_text()

  def log(self, name):
    return (self.folder / "logs" / f"{name}.txt").read_text()

  def status(self, member=""):
    """The newest report of a learner; {} before the first."""
    try:
      return json.loads((self.folder / member / "status.json").read_text())
    except FileNotFoundError:
      return {}

  def wait(self, condition, seconds=300, member=""):
    """Returns the first status that fulfils `condition`."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
      status = self.status(member)
      if status and condition(status):
        return status
      assert self.process.poll() is None, self.output()
      time.sleep(0.1)
    raise AssertionError(f"nothing came of it: {self.status(member)}\n{self.output()}")

  def remember(self):
    """Takes note of all processes that there are."""
    if psutil.pid_exists(self.process.pid):
      found = psutil.Process(self.process.pid).children(recursive=True)
      self._family = list({*self._family, *found})

  def interrupt(self):
    """Presses Ctrl-C: everyone in the foreground gets the signal."""
    self.remember()
    os.killpg(self.process.pid, signal.SIGINT)

  def finish(self, seconds=300):
    """Waits for the end; returns the exit code, and how many processes are left."""
    self.remember()
    code = self.process.wait(seconds)
    alive = psutil.wait_procs(self._family, timeout=1)[1]
    return code, [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def all_workers_send(status, at_least=5):
  """Whether each of two workers has delivered."""
  workers = status.get("workers", {})
  return len(workers) == 2 and all(w["gradients"] >= at_least for w in workers.values())
