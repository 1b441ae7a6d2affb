"""The watch over Ray's control process, which tests/faults/test_launch_faults.py kills."""

import socket
import time

import pytest

from unsup_rule.distributed.control import Control
from unsup_rule.errors import UnsupRuleError


def test_a_control_process_that_is_silent_for_too_long_is_an_error():
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = f"127.0.0.1:{server.getsockname()[1]}"
    control = Control(address, deadline_seconds=0.6)
    for _ in range(3):
      time.sleep(0.3)
      control.check()
  time.sleep(0.2)
  control.check()  # It may come back.
  time.sleep(0.6)
  with pytest.raises(UnsupRuleError, match=rf"control process at {address} has not answered for"):
    control.check()
