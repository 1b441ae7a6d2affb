"""What people see of a run."""

import errno
import io
import os
import threading
import time

import pytest
from distributed_helpers import settings

from unsup_rule.cli import main as cli
from unsup_rule.distributed import display, launcher, process, table
from unsup_rule.errors import UnsupRuleError

_REPORT = {
  "state": "running",
  "step": 12,
  "num_steps": 100,
  "seconds": 3725.0,
  "meta_loss": 0.51234,
  "gradients": 30,
  "gradients_per_second": 2.5,
  "waiting": 1,
  "batch_size": 2,
  "staleness_mean": 1.25,
  "staleness_max": 3,
  "staleness_bound": 4,
  "refused": {"stale": 2, "not finite": 1, "repeated": 0},
  "learner_restarts": 1,
  "saved_step": 10,
  "peak_memory_bytes": 512 * 2**20,
  "refused_updates": 0,
  "problem": "",
  "losses": {"glyphs": 0.5, "cifar10": 0.75},
  "workers": {
    str(index): {
      "host": "alpha",
      "core": None if index == 1 else index,
      "gradients": 15,
      "gradients_per_second": 1.25,
      "refused": 1,
      "restarts": 2,
      "silent_seconds": 90.0 if index == 1 else 0.5,
    }
    for index in range(2)
  },
}


def test_the_table_says_it_all():
  assert table.render(_REPORT).splitlines() == [
    "running: update 12/100 after 1:02:05, meta-loss 0.5123",
    "gradients  30 used, 2.50/s, 1 waiting (batch 2)",
    "staleness  mean 1.25, largest 3, bound 4",
    "refused    2 stale, 1 not finite",
    "restarts   learner 1, workers 4; last checkpoint at update 10",
    "memory     learner at most 512 MiB",
    "",
    "data set                     meta-loss",
    "cifar10                         0.7500",
    "glyphs                          0.5000",
    "",
    "worker  host              core  gradients     1/s  refused  restarts  silent",
    "     0  alpha                0         15    1.25        1         2  0 s",
    "     1  alpha                -         15    1.25        1         2  90 s !",
  ]


def test_a_table_of_many_workers_stays_short():
  many = {**_REPORT, "workers": {str(index): _REPORT["workers"]["0"] for index in range(512)}}
  lines = table.render(many).splitlines()
  assert len(lines) < 32
  assert lines[-1].strip() == "and 496 more; rates of all from 1.25 to 1.25, median 1.25"


class _Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def terminal(monkeypatch):
  monkeypatch.setenv("COLUMNS", "40")
  monkeypatch.setenv("LINES", "30")
  return _Terminal()


def _shown(stream, ask, *, until):
  with display.Display(ask, stream) as shown:
    ends = time.monotonic() + 20
    while until not in stream.getvalue() and time.monotonic() < ends:
      shown.refresh()
      time.sleep(0.05)
    shown.say("a note")
  return stream.getvalue()


def test_a_terminal_gets_a_table_that_is_redrawn(terminal):
  text = _shown(terminal, lambda: table.render(_REPORT), until="12/100")
  assert "\x1b[" in text
  assert "a note\n" in text
  # Cut to the width.
  assert all(len(line) < 60 for line in text.splitlines())


def test_a_file_gets_lines(monkeypatch):
  monkeypatch.setattr(display, "_LINE_SECONDS", 0.1)
  text = _shown(io.StringIO(), lambda: table.render(_REPORT), until="12/100")
  assert "\x1b[" not in text
  assert "staleness mean 1.25, largest 3, bound 4; refused 2 stale" in text


@pytest.mark.parametrize("kind", [_Terminal, io.StringIO])
def test_a_stream_that_takes_nothing_ends_no_run(kind, terminal):
  tried = []

  class Full(kind):
    def write(self, text):
      tried.append(text)
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with display.Display(lambda: "a table", Full()) as shown:
    shown.refresh()
    shown.say("a note")
  assert "a note" in tried


def test_a_learner_that_does_not_answer_holds_up_nobody(terminal):
  answer = threading.Event()

  def ask():
    answer.wait(30)
    raise UnsupRuleError("gone")

  began = time.monotonic()
  with display.Display(ask, terminal) as shown:
    for _ in range(3):
      shown.refresh()
  assert time.monotonic() - began < 5
  answer.set()


def test_logs_go_to_the_folder_of_the_run(tmp_path):
  child = os.fork()
  if child == 0:
    process.redirect(tmp_path, "worker_3")
    os.write(1, b"out\n")
    os.write(2, b"err\n")
    os._exit(0)
  assert os.waitpid(child, 0)[1] == 0
  assert (tmp_path / "logs" / "worker_3.txt").read_text() == "out\nerr\n"


@pytest.mark.parametrize(
  ("batch", "staleness", "workers", "warned"),
  [(1, 1, 2, True), (1, 2, 2, False), (256, 1, 512, True), (256, 2, 512, False), (1, 1, 1, False)],
)
def test_a_bound_on_staleness_that_would_waste_gradients_is_pointed_out(
  batch, staleness, workers, warned
):
  found = settings(trainer_batch_size=batch, staleness=staleness)
  assert bool(launcher.warnings(found, workers)) == warned


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--workers=2"], "nothing to train; give a gin file with --config_file"),
    (["--workers=0", "--config_file=laptop.gin"], "--workers is 0; give at least 1"),
    (["--workers=1", "--config_file=latop.gin"], "no gin file 'latop.gin'; did you mean"),
  ],
)
def test_launch_explains_what_is_wrong(tmp_path, capsys, flags, message):
  assert cli.main(["launch", f"--train_log_dir={tmp_path}/run", *flags]) == 2
  assert capsys.readouterr().err.startswith(f"unsup-rule: error: {message}")


def test_status_of_a_folder_without_a_run(tmp_path, capsys):
  assert cli.main(["status", str(tmp_path)]) == 2
  assert f"no run of `unsup-rule launch` in {tmp_path}" in capsys.readouterr().err
