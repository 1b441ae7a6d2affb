"""A Ray cluster over two hosts, namespaces of this machine, and the cable between them."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest
from launched import Launched
from ray_nodes import Node, free_port, wait_for_port

from unsup_rule import locations
from unsup_rule.distributed import cluster

HEAD, FAR = "10.213.77.1", "10.213.77.2"


def ip(*arguments, check=True):
  return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


class Hosts:
  """Two namespaces, joined by a cable."""

  def __init__(self):
    self.head, self.far = (f"ut{os.getpid()}{side}" for side in "hf")
    self.through = {name: ("ip", "netns", "exec", name) for name in (self.head, self.far)}

  def __enter__(self):
    try:
      for name in (self.head, self.far):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
      cable = ("veth", "netns", self.head, "type", "veth", "peer", "name", "veth")
      ip("link", "add", *cable, "netns", self.far)
      for name, address in ((self.head, HEAD), (self.far, FAR)):
        ip("-n", name, "address", "add", f"{address}/24", "dev", "veth")
        ip("-n", name, "link", "set", "veth", "up")
    except (OSError, subprocess.CalledProcessError) as error:
      self.__exit__()
      pytest.skip(f"no namespaces of the network here: {getattr(error, 'stderr', error)}")
    return self

  def __exit__(self, *unused_error):
    for name in (self.head, self.far):
      if shutil.which("ip"):
        ip("netns", "delete", name, check=False)

  def cut(self, seconds):
    """Pulls the cable out for a while."""
    ip("-n", self.far, "link", "set", "veth", "down")
    time.sleep(seconds)
    ip("-n", self.far, "link", "set", "veth", "up")


class Cluster:
  """A head and a far host with a core each, and the files that both need."""

  def __init__(self, folder, hosts):
    self._folder, self._hosts = folder, hosts
    self._token = cluster.make_token(folder / "token")
    self._short = pathlib.Path("/tmp") / f"ur-net-{os.getpid()}"  # Sockets need short paths.
    self._port, self._nodes = free_port(), []

  def __enter__(self):
    locations.private_folder(self._short)
    flags = ("--head", f"--node-ip-address={HEAD}", f"--port={self._port}", "--num-cpus=1")
    flags += ("--include-dashboard=false", f"--temp-dir={self._short}/r")
    self._start(flags, self._hosts.head)
    wait_for_port(HEAD, self._port, through=self._hosts.through[self._hosts.far])
    return self

  def __exit__(self, *unused_error):
    for node in reversed(self._nodes):
      node.stop()
    shutil.rmtree(self._short, ignore_errors=True)

  def start_far_node(self):
    """Runs `ray start` on the far host."""
    flags = (f"--address={HEAD}:{self._port}", f"--node-ip-address={FAR}", "--num-cpus=1")
    return self._start(flags, self._hosts.far)

  def launched(self, deadline, *bindings):
    """A run with two workers: a core is on the head, and the other one waits for the far host."""
    return Launched(
      self._folder / "run",
      f"distributed.call_deadline_seconds = {deadline}",
      *bindings,
      flags=(f"--address={HEAD}:{self._port}", f"--token_file={self._token}"),
      through=self._hosts.through[self._hosts.head],
    )

  def _start(self, flags, host):
    node = Node(self._folder, self._token, *flags, through=self._hosts.through[host])
    self._nodes.append(node)
    return node


def worker_of(node, status):
  """Number of the worker whose process is the node's."""
  processes = {process.pid for process in node.family()}
  (worker,) = [i for i, about in status["workers"].items() if about["pid"] in processes]
  return worker
