"""What a person sees while it trains."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from unsup_rule.meta import progress

_SCRIPT = """
from unsup_rule.meta.progress import Progress
shown = Progress(3, 200, seconds=0.0, num_seconds=0.0)
for step in range(4, 201):
  shown.update(step, 2.5, dropped=step // 100)
shown.close()
"""


@pytest.mark.parametrize("columns", [80, 0])
def test_a_terminal_shows_a_bar_and_one_without_width_shows_lines(columns):
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(theirs, (24, columns))
  process = subprocess.Popen([sys.executable, "-c", _SCRIPT], stderr=theirs)
  os.close(theirs)
  shown = b""
  # Linux reports the end of a terminal's output as an error.
  try:
    while chunk := os.read(ours, 4096):
      shown += chunk
  except OSError:
    pass
  os.close(ours)
  assert process.wait(timeout=60) == 0
  text = shown.decode()
  assert "compiling the first step" in text
  last = text.replace("\r", "\n").strip().splitlines()[-1]
  assert "200/200" in last
  assert "meta-loss 2.5, 00:00 left, 2 dropped" in last
  assert ("█" in last) == (columns > 0)
  assert all(len(line) <= 80 for line in text.replace("\r", "\n").splitlines())


def test_time_left_leaves_compilation_out_and_heeds_the_limit(monkeypatch, capsys):
  now = 0.0
  monkeypatch.setattr(progress.time, "monotonic", lambda: now)
  shown = progress.Progress(0, 100, seconds=1000.0, num_seconds=1200.0)
  now = 60.0
  shown.update(1, 1.0, 0)
  assert "step 1/100: meta-loss 1, ? left" in capsys.readouterr().err
  # 30 seconds later ten more steps are done: three seconds for each of 89 are 4:27, but the limit
  # of time leaves 110 seconds.
  now = 90.0
  shown.update(11, 1.0, 0)
  assert "step 11/100: meta-loss 1, 01:50 left, 0 dropped" in capsys.readouterr().err
  now = 100.0
  shown.update(12, 1.0, 0)
  assert capsys.readouterr().err == ""
  now = 121.0
  shown.update(30, 1.0, 0)
  # 29 steps in 61 seconds, and 70 to go, are 147 seconds; the limit leaves 79.
  assert "step 30/100: meta-loss 1, 01:19 left" in capsys.readouterr().err
