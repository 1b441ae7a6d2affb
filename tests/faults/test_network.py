"""Two hosts, as namespaces of this machine's network, are cut off from each other for a while."""

import csv
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


class Cluster:
  """A head and a far host with a core each, and the files that both need."""

  def __init__(self, folder, hosts):
    self._folder, self._hosts = folder, hosts
    self._token = cluster.make_token(folder / "token")
    self._short = pathlib.Path("/tmp") / f"ur-net-{os.getpid()}"  # Sockets need short paths.
    self._port, self._nodes = free_port(), []

  def __enter__(self):
    storage.private_folder(self._short)
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


@pytest.fixture
def hosts():
  with Hosts() as found:
    yield found


def worker_of(node, status):
  """Number of the worker whose process is the node's."""
  processes = {process.pid for process in node.family()}
  (worker,) = [i for i, about in status["workers"].items() if about["pid"] in processes]
  return worker


@pytest.mark.slow
def test_a_broken_network_costs_a_worker_for_a_while_and_no_run(tmp_path, hosts):
  with Cluster(tmp_path, hosts) as nodes, nodes.launched(30) as run:
    run.wait(lambda status: status["step"] > 5)
    far = nodes.start_far_node()
    before = run.wait(all_workers_send)
    cut_off = worker_of(far, before)
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


@pytest.mark.slow
def test_workers_come_back_after_longer_breaks(tmp_path, hosts):
  """First the worker there gives up; then Ray gives up the host, which needs a `ray start`."""
  enough = tmp_path / "enough"
  slowly = (
    "build_gradient_estimators.sample_task_family_fn = @slow_quadratics",
    f"slow_quadratics.until = '{enough}'",
    "run_train.stochastic_resample_frequency = 1",
    "run_train.num_steps = 1500",
  )
  with Cluster(tmp_path, hosts) as nodes, nodes.launched(8, *slowly) as run:
    run.wait(lambda status: status["step"] > 5)
    far = nodes.start_far_node()
    before = run.wait(all_workers_send)
    cut_off = worker_of(far, before)
    stayed = str(1 - int(cut_off))

    def again(status, since):
      worker, earlier = status["workers"][cut_off], since["workers"][cut_off]
      more = worker["gradients"] - earlier["gradients"]
      return worker["restarts"] > earlier["restarts"] and more > 3 and worker["silent_seconds"] < 2

    hosts.cut(seconds=40)
    after = run.wait(lambda status: again(status, before), seconds=120)
    assert "to exchange for 8 s" in run.output()
    assert after["workers"][cut_off]["pid"] == before["workers"][cut_off]["pid"]

    # Ray asks a host every 3 s, waits 10 s for an answer, and has given up after 65 s.
    hosts.cut(seconds=75)
    assert far.process.wait(60) != 0
    far = nodes.start_far_node()
    back = run.wait(lambda status: again(status, after))
    assert worker_of(far, back) == cut_off
    assert back["workers"][stayed]["pid"] == before["workers"][stayed]["pid"]
    enough.touch()
    code, left = run.finish()
    assert (code, left) == (0, []), run.output()
    assert run.status()["state"] == "finished"
    assert (tmp_path / "run" / "summary.json").exists()
  with open(tmp_path / "run" / "curve.csv", newline="") as stream:
    assert [int(row["step"]) for row in csv.DictReader(stream)] == list(range(1, 1501))
  # Each role has come to its end once, however often it was begun.
  assert run.log("learner").count("learner: process") == 1
  for worker, about in back["workers"].items():
    lines = run.log(f"worker_{worker}").splitlines()
    starts = [line for line in lines if line.startswith(f"worker {worker}: start")]
    assert starts == [f"worker {worker}: start {i}" for i in range(about["restarts"] + 1)]
    assert lines.count(f"worker {worker}: no more work") == 1
