"""Nodes of a Ray cluster on this machine, for tests that lose them or cut them off."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import psutil

RAY = pathlib.Path(sys.executable).with_name("ray")
SMALL = ("--object-store-memory=200000000",)


class Node:
  """`ray start --block`, by way of another command if one is given."""

  def __init__(self, folder, token, *flags, through=()):
    self.environment = {
      **os.environ,
      "RAY_AUTH_MODE": "token",
      "RAY_AUTH_TOKEN_PATH": str(token),
      "RAY_USAGE_STATS_ENABLED": "0",
    }
    self._output = open(folder / f"node_{time.monotonic_ns()}.txt", "w")  # noqa: SIM115
    self.process = subprocess.Popen(
      [*through, RAY, "start", "--block", "--disable-usage-stats", *SMALL, *flags],
      env=self.environment,
      stdout=self._output,
      stderr=subprocess.STDOUT,
    )

  def family(self):
    return psutil.Process(self.process.pid).children(recursive=True)

  def kill(self):
    """Loses the node: all of its processes at once."""
    for process in [psutil.Process(self.process.pid), *self.family()]:
      with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    self.process.wait()

  def stop(self):
    if self.process.poll() is None:
      self.kill()
    self._output.close()


def free_port():
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def wait_for_port(host, port, through=(), seconds=60):
  """Waits until somebody answers there, asked by way of another command if one is given."""
  code = f"import socket; socket.create_connection(({host!r}, {port}), timeout=1)"
  ends = time.monotonic() + seconds
  while time.monotonic() < ends:
    done = subprocess.run([*through, sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    if not done.returncode:
      return
    time.sleep(0.2)
  raise AssertionError("the head does not answer")
