"""Shows a run while it goes on: a table that is redrawn in a terminal, a line now and then else."""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import progress

_TABLE_SECONDS = 1.0
_LINE_SECONDS = 30.0


class Display:
  """Asks for the table in a thread of its own, so that a dead learner holds up nobody."""

  def __init__(self, ask: Callable[[], str], stream: TextIO | None = None):
    """Shows on `stream` (standard error) the table that `ask` returns, its first block foremost."""
    self._ask, self._stream = ask, stream or sys.stderr
    self._terminal = self._stream.isatty() and shutil.get_terminal_size((0, 0)).columns > 0
    self._lines = 0  # That the table takes on the screen.
    self._shown_at = self._said_at = 0.0
    self._table = "starting"
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._poll, daemon=True)

  def __enter__(self) -> "Display":
    self._thread.start()
    return self

  def __exit__(self, *unused_error: object) -> None:
    self._ended.set()
    if self._terminal:
      self._draw()

  def say(self, text: str) -> None:
    """Prints a line above the table."""
    self._erase()
    progress.say(text, self._stream)

  def refresh(self) -> None:
    """Draws where it is time to."""
    now = time.monotonic()
    if self._terminal and now - self._shown_at >= _TABLE_SECONDS:
      self._shown_at = now
      self._draw()
    elif not self._terminal and now - self._said_at >= _LINE_SECONDS:
      self._said_at = now
      text = self._table.split("\n\n", 1)[0]
      self.say("; ".join(" ".join(line.split()) for line in text.splitlines()))

  def _poll(self) -> None:
    while not self._ended.wait(_TABLE_SECONDS):
      try:
        self._table = self._ask()
      except UnsupRuleError:
        self._table = "the learner is starting"
      except Exception:  # Ray is being shut down.
        return

  def _draw(self) -> None:
    size = shutil.get_terminal_size()
    lines = [line[: size.columns - 1] for line in self._table.splitlines()]
    lines = lines[: max(size.lines - 2, 1)]
    self._erase()
    progress.say("\n".join(lines), self._stream)
    self._lines = len(lines)

  def _erase(self) -> None:
    if self._lines:
      progress.say(f"\x1b[{self._lines}F\x1b[J", self._stream, end="")
      self._lines = 0
