"""Two hosts, as namespaces of this machine's network, are cut off from each other for a while."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest
from launched import Launched, all_workers_send
from ray_nodes import Node, free_port, wait_for_port

from unsup_rule import storage
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


@pytest.mark.slow
def test_a_broken_network_costs_a_worker_for_a_while_and_no_run(tmp_path):
  token = cluster.make_token(tmp_path / "token")
  short = pathlib.Path("/tmp") / f"ur-net-{os.getpid()}"  # Sockets need short paths.
  storage.private_folder(short)
  port = free_port()
  nodes = []
  with Hosts() as hosts:
    try:
      # One worker and the learner fit the head, so that the other worker waits for the far host.
      flags = ("--head", f"--node-ip-address={HEAD}", f"--port={port}", "--num-cpus=1")
      flags += ("--include-dashboard=false", f"--temp-dir={short}/r")
      nodes.append(Node(tmp_path, token, *flags, through=hosts.through[hosts.head]))
      wait_for_port(HEAD, port, through=hosts.through[hosts.far])
      flags = (f"--address={HEAD}:{port}", f"--token_file={token}")
      deadline = "distributed.call_deadline_seconds = 30"
      with Launched(
        tmp_path / "run", deadline, flags=flags, through=hosts.through[hosts.head]
      ) as run:
        run.wait(lambda status: status["step"] > 5)
        flags = (f"--address={HEAD}:{port}", f"--node-ip-address={FAR}", "--num-cpus=1")
        nodes.append(Node(tmp_path, token, *flags, through=hosts.through[hosts.far]))
        before = run.wait(all_workers_send)
        far = {process.pid for process in nodes[1].family()}
        (cut_off,) = [i for i, worker in before["workers"].items() if worker["pid"] in far]
        hosts.cut(seconds=20)
        reached = run.status()["workers"][cut_off]["gradients"]
        run.wait(
          lambda status: (
            status["step"] > before["step"] + 50
            and status["workers"][cut_off]["gradients"] > reached + 20
            and status["workers"][cut_off]["silent_seconds"] < 2
          )
        )
        run.interrupt()
        code, left = run.finish()
        assert (code, left) == (130, []), run.output()
        assert run.status()["state"] == "stopped"
        assert run.status()["learner_restarts"] == 0
    finally:
      for node in reversed(nodes):
        node.stop()
      shutil.rmtree(short, ignore_errors=True)
