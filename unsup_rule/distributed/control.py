"""Ray's control process (its GCS), without which Ray ends all of its own within a minute.

Nothing that was started stops at once where it dies: training goes on, and calls by handle are
answered. Ray waits for it for 60 s, and then ends every process on the spot, this one too.
"""

import socket
import time
from types import ModuleType

from unsup_rule.errors import UnsupRuleError

DEADLINE_SECONDS = 30.0  # So a break of the network of 20 s is outlived.
_TRIES = 6  # Within that time.
_PROBE_SECONDS = 2.0


class Control:
  """Watches it.

  Attributes:
    address: its "host:port".
  """

  def __init__(self, address: str, deadline_seconds: float = DEADLINE_SECONDS):
    self.address, self._deadline = address, deadline_seconds
    self._asked_at = self._answered_at = time.monotonic()

  @classmethod
  def of(cls, ray: ModuleType) -> "Control":
    """That of the cluster that this process has joined."""
    return cls(ray.get_runtime_context().gcs_address)

  def check(self) -> None:
    """Asks for a sign of life where it is time to.

    Raises:
      UnsupRuleError: there was none for too long.
    """
    now = time.monotonic()
    if now - self._asked_at < self._deadline / _TRIES:
      return
    self._asked_at = now
    if reason := self._refusal():
      silent = time.monotonic() - self._answered_at
      if silent > self._deadline:
        raise UnsupRuleError(
          f"Ray's control process at {self.address} has not answered for {silent:.0f} s ({reason})"
        )
    else:
      self._answered_at = now

  def _refusal(self) -> str | None:
    host, _, port = self.address.rpartition(":")
    try:
      with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS):
        return None
    except OSError as error:
      return str(error)
