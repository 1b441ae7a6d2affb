"""Progress on stderr: a bar in a terminal, a line now and then in a file.

What is shown never decides over a run: a full disk behind stderr, or nobody there, is passed over.
"""

import contextlib
import os
import sys
import time
from typing import TextIO

import tqdm

from unsup_rule.meta import curve

_SECONDS_BETWEEN_LINES = 30.0
_SMOOTHING_SPAN = 20


# What writing to a stream raises that is full, gone or closed.
_NOBODY_THERE = (OSError, ValueError)


def say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
  """Writes a line to a stream, stderr by default, if it can be written."""
  with contextlib.suppress(*_NOBODY_THERE):
    print(text, file=stream or sys.stderr, end=end, flush=True)


class Progress:
  """Shows steps, smoothed meta-loss, time left and dropped gradients."""

  def __init__(self, step: int, num_steps: int, seconds: float, num_seconds: float):
    """Starts to show.

    Args:
      step: outer steps done.
      num_steps: outer steps in all.
      seconds: time spent in earlier sessions.
      num_seconds: limit of time over all sessions, in seconds; 0 for none.
    """
    self._first_step, self._num_steps = step, num_steps
    self._num_seconds = num_seconds
    self._losses: list[float] = []
    self._started = self._last_line = time.monotonic()
    self._bar = None
    if _has_terminal():
      self._bar = tqdm.tqdm(
        total=num_steps,
        initial=step,
        unit="step",
        dynamic_ncols=True,
        bar_format="outer step {n_fmt}/{total_fmt} {bar} {elapsed}{postfix}",
      )
      self._bar.set_postfix_str("compiling the first step")
    else:
      say(f"step {step}/{num_steps}: compiling the first step")
    self._seconds_before = seconds

  def update(self, step: int, loss: float, dropped: int) -> None:
    """Shows that `step` steps are done, the last with `loss`, with `dropped` gradients so far."""
    now = time.monotonic()
    self._losses = [*self._losses, loss][-5 * _SMOOTHING_SPAN :]
    text = self._describe(step, now, dropped)
    if self._bar is not None:
      self._bar.set_postfix_str(text, refresh=False)
      with contextlib.suppress(*_NOBODY_THERE):
        self._bar.update(step - self._bar.n)
    elif now - self._last_line >= _SECONDS_BETWEEN_LINES or step in (
      self._first_step + 1,
      self._num_steps,
    ):
      self._last_line = now
      say(f"step {step}/{self._num_steps}: {text}")

  def close(self) -> None:
    """Leaves the bar where it is."""
    if self._bar is not None:
      with contextlib.suppress(*_NOBODY_THERE):
        self._bar.close()

  def _describe(self, step: int, now: float, dropped: int) -> str:
    if step == self._first_step + 1:
      # Its time was mostly compilation and says nothing about the others.
      self._compiled = now
      left = "?"
    else:
      rate = (step - self._first_step - 1) / max(now - self._compiled, 1e-9)
      seconds = (self._num_steps - step) / rate
      if self._num_seconds:
        spent = self._seconds_before + now - self._started
        seconds = min(seconds, max(self._num_seconds - spent, 0))
      left = tqdm.tqdm.format_interval(seconds)
    loss = curve.smoothed(self._losses, _SMOOTHING_SPAN)[-1]
    return f"meta-loss {loss:.4g}, {left} left, {dropped} dropped"


def _has_terminal() -> bool:
  # A terminal without a width, as some services give, has no room for a bar.
  return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
