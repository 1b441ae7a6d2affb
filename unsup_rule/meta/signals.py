"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop after the current step."""

import signal
import threading
from types import FrameType

from unsup_rule.meta import progress

# A closed terminal too, where the system has such a signal.
_WATCHED = tuple(
  getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class StopRequest:
  """Within it the first of these signals is only noted; a second SIGINT interrupts at once.

  Attributes:
    signal_number: of the signal that came, or None.
  """

  def __init__(self):
    self.signal_number: int | None = None
    self._previous = {}

  def __enter__(self) -> "StopRequest":
    # Python lets only the main thread set handlers; elsewhere the caller's stay.
    if threading.current_thread() is threading.main_thread():
      self._previous = {number: signal.signal(number, self._note) for number in _WATCHED}
    return self

  def __exit__(self, *unused_error) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def raise_if_requested(self) -> None:
    """Raises what stands for the signal: KeyboardInterrupt, or SystemExit(128 + its number)."""
    if self.signal_number == signal.SIGINT:
      raise KeyboardInterrupt
    if self.signal_number is not None:
      raise SystemExit(128 + self.signal_number)

  def _note(self, number: int, unused_frame: FrameType | None) -> None:
    if self.signal_number is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal_number = number
    progress.say("\nstopping after this step; Ctrl-C again stops at once")
