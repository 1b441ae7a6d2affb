"""Cells in worker processes: the same digits, caches, deaths, interruption."""

import csv
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from evaluation_helpers import rule_folder

from unsup_rule.evaluation import processes
from unsup_rule.evaluation.store import TIMES
from unsup_rule.evaluation.suite import Suite

SMALL = (
  "evaluate.n_outputs=8",
  "evaluate.widths=(12,)",
  "evaluate.hidden_layers=(1,)",
  "evaluate.batch_sizes=(16,)",
  "evaluate.steps=(0, 2)",
  "evaluate.seeds=2",
  "evaluate.draws=2",
  "evaluate.methods=('rule', 'rule_layers', 'untrained', 'inputs', 'kmeans')",
)


def command(out, count, rule, *more):
  bindings = [f"--gin_bindings={binding}" for binding in (*SMALL, *more)]
  flags = [f"--out={out}", f"--processes={count}", f"--rule={rule}"]
  return [sys.executable, "-m", "unsup_rule", "evaluate", *flags, *bindings]


def lines(out):
  return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def numbers(out):
  """results.csv without what differs from run to run."""
  with open(out / "results.csv", newline="") as stream:
    rows = list(csv.DictReader(stream))
  return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.mark.slow
def test_one_process_or_two_give_the_same_digits_and_only_a_new_rule_is_measured(tmp_path):
  rule = rule_folder(tmp_path / "rule")
  for count in (1, 2):
    subprocess.run(command(tmp_path / str(count), count, rule), check=True)
  assert numbers(tmp_path / "1") == numbers(tmp_path / "2")

  other = rule_folder(tmp_path / "other", learning_rate=1e-2)
  before = lines(tmp_path / "2")
  subprocess.run(command(tmp_path / "2", 2, other), check=True)
  new = lines(tmp_path / "2")[len(before) :]
  assert sorted(row["method"] for row in new) == ["rule", "rule_layers"]
  for row in new:
    old = next(r for r in before if r["method"] == row["method"])
    assert row["measurements"] != old["measurements"]


def children(pid):
  found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
  return [int(word) for word in found.stdout.split()]


def alive(pid):
  try:
    return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
  except OSError:
    return False


def test_a_long_cell_is_spoken_of_every_second():
  class Busy(processes._Worker):
    def _begin(self):
      self.connection, self.theirs = multiprocessing.Pipe()

    def start(self, cell):
      super().start(cell)
      threading.Timer(2.5, self.theirs.send, [{"status": "ok"}]).start()

    def end(self):
      pass

  cell = next(iter(Suite(methods=("inputs",)).cells(None)))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(processes, "_Worker", Busy)
    found = list(processes.run([cell], None, pathlib.Path(), {}, 1))
  assert found == [(cell, 0.0), (cell, 0.0), (cell, {"status": "ok"})]


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_keeps_what_is_done(tmp_path):
  asked = command(tmp_path / "out", 2, rule_folder(tmp_path / "rule"), "evaluate.seeds=500")
  # A shell's background jobs ignore the signal, and all that they start.
  heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
  process = subprocess.Popen(asked, stderr=subprocess.DEVNULL, env=os.environ, preexec_fn=heard)
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and len(children(process.pid)) < 3:  # and a tracker
    time.sleep(0.1)
  workers = children(process.pid)
  time.sleep(3)
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=60) == 130
  time.sleep(0.5)
  assert not [pid for pid in workers if alive(pid)]
