"""Trains for a while under fire: every so often a process chosen at random is killed.

  python -m benchmarks.soak --seconds=1200 --kill_every=30

Then stops the run with Ctrl-C, starts it again, lets it finish, and prints what became of it as one
line of JSON. Exit code 1 where something is not as it must be.
"""

import argparse
import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from unsup_rule.meta import checkpoint

_LAST_UPDATES = 50  # After the run is started again.
_LOOK_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
  """Runs it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config_file", default="smoke.gin")
  parser.add_argument("--gin_import", action="append", default=[])
  parser.add_argument("--train_log_dir", help="a temporary folder by default")
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--seconds", type=float, default=1200.0)
  parser.add_argument("--kill_every", type=float, default=30.0)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(arguments.train_log_dir or temporary) / "run"
    result = soak(folder, arguments)
  print(json.dumps(result))
  return 0 if result["passed"] else 1


def soak(folder: pathlib.Path, arguments: argparse.Namespace) -> dict[str, Any]:
  """Returns what happened."""
  run = _Run(folder, arguments, 10**6)
  began = time.monotonic()
  kills, longest = _under_fire(run, arguments)
  stop_code, left = run.interrupt()
  stopped = run.status()
  again = _Run(folder, arguments, stopped["step"] + _LAST_UPDATES)
  end_code, left_again = again.wait()
  losses = _losses(folder)
  span = max(len(losses) // 10, 1)
  theta = np.concatenate(
    [np.ravel(leaf) for leaf in (checkpoint.load_state(folder) or {})["learner"].values()]
  )
  found = {
    "seconds": time.monotonic() - began,
    "kills": kills,
    "updates": len(losses),
    "gradients": stopped["gradients"],
    "refused": {reason: n for reason, n in stopped["refused"].items() if n},
    "longest_pause_seconds": longest,
    "first_loss": float(np.mean(losses[:span])),
    "last_loss": float(np.mean(losses[-span:])),
    "theta_finite": bool(np.isfinite(theta.astype(np.float64)).all()),
    "exit_codes": [stop_code, end_code],
    "processes_left": left + left_again,
  }
  found["passed"] = (
    found["theta_finite"]
    and found["last_loss"] < found["first_loss"]
    and found["exit_codes"] == [130, 0]
    and not found["processes_left"]
    and len(losses) == stopped["step"] + _LAST_UPDATES
  )
  return found


def _under_fire(run: "_Run", arguments: argparse.Namespace) -> tuple[dict[str, int], float]:
  """Kills processes for a while; returns how many of each role, and the longest pause."""
  chance = random.Random(arguments.seed)
  kills = {"learner": 0, "worker": 0}
  began = advanced_at = time.monotonic()
  step, longest = 0, 0.0
  next_kill: float | None = None  # The first one once training goes on.
  while time.monotonic() - began < arguments.seconds and run.process.poll() is None:
    time.sleep(_LOOK_SECONDS)
    status = run.status()
    if status.get("step", 0) != step:
      longest = max(longest, time.monotonic() - advanced_at) if step else 0.0
      advanced_at, step = time.monotonic(), status["step"]
      next_kill = next_kill or time.monotonic() + arguments.kill_every
    if next_kill is not None and time.monotonic() >= next_kill:
      next_kill = time.monotonic() + arguments.kill_every
      victims = [("learner", status["pid"])] + [
        ("worker", worker["pid"]) for worker in status["workers"].values() if "pid" in worker
      ]
      role, pid = chance.choice(victims)
      try:
        os.kill(pid, signal.SIGKILL)
      except ProcessLookupError:
        continue  # Not back yet from the last time.
      kills[role] += 1
      print(f"update {step}: killed {role} {pid}", file=sys.stderr, flush=True)
  return kills, longest


class _Run:
  """One start of `unsup-rule launch`."""

  def __init__(self, folder: pathlib.Path, arguments: argparse.Namespace, num_steps: int):
    self._folder = folder
    self.process = subprocess.Popen(
      [
        *(sys.executable, "-m", "unsup_rule", "launch", f"--train_log_dir={folder}"),
        *(f"--config_file={arguments.config_file}", f"--workers={arguments.workers}"),
        *(f"--gin_import={name}" for name in arguments.gin_import),
        f"--gin_bindings=run_train.num_steps = {num_steps}",
        "--gin_bindings=run_train.staleness = 8",
      ],
      stdout=sys.stderr,
      start_new_session=True,
    )

  def status(self) -> dict[str, Any]:
    """The newest report, or {}."""
    try:
      return json.loads((self._folder / "status.json").read_text())
    except (OSError, ValueError):
      return {}

  def interrupt(self) -> tuple[int, int]:
    """Presses Ctrl-C; returns what `wait` returns."""
    family = psutil.Process(self.process.pid).children(recursive=True)
    os.killpg(self.process.pid, signal.SIGINT)
    return self._end(family)

  def wait(self) -> tuple[int, int]:
    """Returns the exit code, and how many processes are left."""
    family: set[psutil.Process] = set()
    while self.process.poll() is None:
      family |= set(psutil.Process(self.process.pid).children(recursive=True))
      time.sleep(_LOOK_SECONDS)
    return self._end(list(family))

  def _end(self, family: list[psutil.Process]) -> tuple[int, int]:
    code = self.process.wait()
    _, alive = psutil.wait_procs(family, timeout=2)
    return code, len(alive)


def _losses(folder: pathlib.Path) -> np.ndarray:
  with open(folder / "curve.csv", newline="") as stream:
    rows = list(csv.DictReader(stream))
  return np.asarray([float(row["loss"]) for row in rows])


if __name__ == "__main__":
  sys.exit(main())
