"""Measures distributed training: how it scales on this machine, and what one learner absorbs.

  python -m benchmarks.distributed scaling
  python -m benchmarks.distributed absorb --workers=512

Each prints one line of JSON.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from benchmarks.simulated import SimulatorRole
from unsup_rule.distributed import actors, cluster, launcher
from unsup_rule.distributed.server import GradientServer
from unsup_rule.distributed.statistics import Report
from unsup_rule.meta import gin_files, settings

Served = actors.Caller[GradientServer]
_LOOK_SECONDS = 1.0
_WARM = 3  # Gradients of a worker after which it has compiled what it needs.
_SIMULATORS = 2  # Processes that stand for all the workers.

_ABSORB = """
run_train.lopt = @UnsupervisedRule()
run_train.num_steps = 1000000
run_train.trainer_batch_size = 256
run_train.staleness = 16
GradientLearner.theta_opt = @GradientClipOptimizer()
GradientClipOptimizer.opt = @Adam()
Adam.learning_rate = 3e-4
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one measurement."""
  parser = argparse.ArgumentParser(description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  scaling = commands.add_parser("scaling", help="gradients a second of 1 and of 2 workers")
  scaling.add_argument("--config_file", default="laptop_launch.gin")
  scaling.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
  scaling.add_argument("--repeats", type=int, default=2)
  scaling.add_argument("--gin_bindings", action="append", default=[], metavar="BINDING")
  absorb = commands.add_parser("absorb", help="gradients a second that one learner takes")
  absorb.add_argument("--workers", type=int, default=512)
  absorb.add_argument("--seconds", type=float, default=60.0)
  arguments = parser.parse_args(argv)
  if arguments.command == "scaling":
    result = measure_scaling(
      arguments.config_file, arguments.gin_bindings, arguments.seconds, arguments.repeats
    )
  else:
    result = measure_absorption(arguments.workers, arguments.seconds)
  print(json.dumps({"command": arguments.command, "cores": os.cpu_count(), **result}))
  return 0


def measure_scaling(
  config_file: str, bindings: Sequence[str], seconds: float, repeats: int
) -> dict[str, Any]:
  """Counts gradients of real workers, first of one, then of two, after compilation.

  Also the processor time that they cost, which tells what an idle machine would do where this one
  is not: alone, a worker has a core and the learner another; two share theirs with the learner.
  """
  text = gin_files.parse(
    [config_file], ["run_train.num_steps = 1000000", "run_train.staleness = 8", *bindings]
  )
  found = settings.read(text)
  rates: dict[int, list[float]] = {1: [], 2: []}
  costs: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
  for n_workers in (1, 2) * repeats:
    with cluster.connected(None, 2) as ray, tempfile.TemporaryDirectory() as folder:
      launch = launcher.Launch(found, pathlib.Path(folder) / "run", n_workers)
      learner, _ = launcher.start(ray, launch)
      served = actors.Remote[GradientServer](launch.learner)
      first = _until(served, lambda found, n=n_workers: _sending(found) == n)
      pids = {worker["pid"] for worker in first["workers"].values()}
      before, cpu_before, began = _report(served), _cpu_seconds(pids), time.monotonic()
      time.sleep(seconds)
      after, cpu_after = _report(served), _cpu_seconds(pids)
      n_gradients = after["gradients"] - before["gradients"]
      rate = n_gradients / (time.monotonic() - began)
      rates[n_workers].append(rate)
      workers, everyone = ((new - old) for new, old in zip(cpu_after, cpu_before, strict=True))
      costs[n_workers].append((workers / n_gradients, everyone / n_gradients))
      served.call(GradientServer.stop)
      learner.outcome()
    print(f"{n_workers} workers: {rate:.3f} gradients/s", file=sys.stderr, flush=True)
  one, two = (sum(rates[n]) / len(rates[n]) for n in (1, 2))
  alone = sum(workers for workers, _ in costs[1]) / repeats
  shared = sum(everyone for _, everyone in costs[2]) / repeats
  return {
    "one_worker_per_second": one,
    "two_workers_per_second": two,
    "ratio": two / one,
    "processor_seconds_a_gradient": {"worker_alone": alone, "all_of_two": shared},
    "ratio_by_processor_time": 2 * alone / shared,
  }


def _cpu_seconds(workers: set[int]) -> tuple[float, float]:
  """Returns the processor time so far of these processes, and of all that this one started."""
  of_workers = everyone = 0.0
  for process in psutil.Process().children(recursive=True):
    with contextlib.suppress(psutil.NoSuchProcess):
      times = process.cpu_times()
      everyone += times.user + times.system
      if process.pid in workers:
        of_workers += times.user + times.system
  return of_workers, everyone


def measure_absorption(n_workers: int, seconds: float) -> dict[str, Any]:
  """Sends gradients of the paper's theta from simulated workers, each as fast as it is answered."""
  with tempfile.NamedTemporaryFile("w", suffix=".gin") as stream:
    stream.write(_ABSORB)
    stream.flush()
    text = gin_files.parse([stream.name])
  with cluster.connected(None, _SIMULATORS) as ray, tempfile.TemporaryDirectory() as folder:
    launch = launcher.Launch(settings.read(text), pathlib.Path(folder) / "run", 0)
    learner, _ = launcher.start(ray, launch)
    share = n_workers // _SIMULATORS
    simulators = [
      launcher.Process(
        ray,
        f"simulator_{index}",
        SimulatorRole(text, (), launch.folder, launch.learner, index * share, share),
      )
      for index in range(_SIMULATORS)
    ]
    served = actors.Remote[GradientServer](launch.learner)
    # Past the first updates, which compile.
    _until(served, lambda found: found["step"] >= 3 and _sending(found) == n_workers)
    rate = _rate_over(served, seconds)
    last = _report(served)
    served.call(GradientServer.stop)
    for process in (learner, *simulators):
      process.outcome()
  return {
    "simulated_workers": n_workers,
    "gradients_per_second": rate,
    "refused": {reason: n for reason, n in last["refused"].items() if n},
    "staleness_mean": last["staleness_mean"],
    "staleness_max": last["staleness_max"],
    "learner_peak_memory_mib": last["peak_memory_bytes"] / 2**20,
  }


def _report(served: Served) -> Report:
  return served.call(GradientServer.report)


def _sending(found: Report) -> int:
  return sum(worker["gradients"] >= _WARM for worker in found["workers"].values())


def _until(served: Served, condition: Callable[[Report], bool]) -> Report:
  while not condition(found := _report(served)):
    time.sleep(_LOOK_SECONDS)
  return found


def _rate_over(served: Served, seconds: float) -> float:
  """Gradients a second over the next seconds."""
  began = time.monotonic()
  first = _report(served)
  time.sleep(seconds)
  last = _report(served)
  return (last["gradients"] - first["gradients"]) / (time.monotonic() - began)


if __name__ == "__main__":
  sys.exit(main())
