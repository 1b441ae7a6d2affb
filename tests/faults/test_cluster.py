"""Ray is private: tokens and folders for the owner alone, and nobody without the token gets in."""

import multiprocessing
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time

import filelock
import pytest
from launched import Launched, all_workers_send
from ray_nodes import Node, free_port, wait_for_port

from unsup_rule import locations
from unsup_rule.distributed import affinity, cluster
from unsup_rule.errors import UnsupRuleError


def _mode(path):
  return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_random_and_for_its_owner_alone(tmp_path):
  path = cluster.make_token(tmp_path / "private" / "token")
  assert _mode(path) == 0o600
  assert _mode(path.parent) == 0o700
  token = path.read_text()
  assert len(token) == 64
  assert cluster.make_token(path).read_text() == token
  assert cluster.make_token(tmp_path / "other").read_text() != token
  path.chmod(0o640)
  with pytest.raises(UnsupRuleError, match=r"can be read by others; run chmod 600"):
    cluster.make_token(path)


def test_a_private_folder_is_closed_even_if_it_was_open(tmp_path):
  folder = tmp_path / "folder"
  folder.mkdir(mode=0o777)
  assert _mode(locations.private_folder(folder)) == 0o700


def test_folders_of_killed_processes_are_removed_by_the_next():
  code = (
    "import os, signal, sys; from unsup_rule.machine import scratch\n"
    "print(scratch.own_folder(), flush=True)\n"
    "if sys.argv[1:]: os.kill(os.getpid(), signal.SIGKILL)\n"
  )

  def made(*arguments):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return pathlib.Path(done.stdout.strip())

  def aged(folder):
    (folder / "r").mkdir(exist_ok=True)
    os.utime(folder, (1, 1))
    return folder

  with tempfile.TemporaryDirectory(dir="/tmp") as name:
    environment = {**os.environ, "TMPDIR": name}
    living, foreign = pathlib.Path(name, "ur-living"), pathlib.Path(name, "ur-foreign")
    for folder in (living, foreign):
      folder.mkdir()
    with filelock.FileLock(living / ".lock"):
      killed = aged(made("and die"))
      assert killed.parent == living.parent
      assert killed.exists()
      aged(living)
      aged(foreign)  # With no lock of ours in it.
      assert not made().exists()
      assert sorted(living.parent.iterdir()) == [foreign, living]


def test_an_address_where_nobody_answers_is_an_error_at_once():
  with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    port = unused.getsockname()[1]
  began = time.monotonic()
  with (
    pytest.raises(UnsupRuleError, match=f"nobody answers at --address=127.0.0.1:{port}"),
    cluster.connected(f"127.0.0.1:{port}", 1),
  ):
    pass
  assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:", "127.0.0.1:x"])
def test_an_address_without_a_port_is_an_error(address):
  with pytest.raises(UnsupRuleError, match="give host:port"), cluster.connected(address, 1):
    pass


def test_a_token_that_others_can_read_is_not_used(tmp_path):
  token = tmp_path / "token"
  token.write_text("a" * 64)
  token.chmod(0o644)
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = f"127.0.0.1:{server.getsockname()[1]}"
    with (
      pytest.raises(UnsupRuleError, match="can be read by others"),
      cluster.connected(address, 1, str(token)),
    ):
      pass
    with (
      pytest.raises(UnsupRuleError, match=r"no token at .*/absent: No such file"),
      cluster.connected(address, 1, str(tmp_path / "absent")),
    ):
      pass


def test_a_head_that_is_only_just_there_is_asked_again(monkeypatch):
  pauses, refusals = [], []

  class Young:
    """Ray, before a new head knows its own node."""

    def __init__(self, refuses):
      self.refuses, self.joined = refuses, None

    def init(self, address, **_):
      if len(refusals) < self.refuses:
        refusals.append(address)
        raise ConnectionError("Failed to connect")
      self.joined = address

    def shutdown(self):
      pass

  monkeypatch.setattr("time.sleep", pauses.append)
  young = Young(refuses=2)
  cluster.join(young, "host:1")
  assert (young.joined, len(refusals), len(pauses)) == ("host:1", 2, 2)
  refusals.clear()
  with pytest.raises(ConnectionError):
    cluster.join(Young(refuses=3), "host:1")
  assert len(refusals) == 3


def _pinned(folder, queue):
  core = affinity.pin_to_a_free_core(folder)
  threads = {
    frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")
  }
  queue.put((core, threads))
  time.sleep(120)  # Until it is killed.


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_a_folder_of_somebody_else_means_no_core_of_ones_own(tmp_path):
  (tmp_path / "theirs").mkdir()
  (tmp_path / "cores").symlink_to(tmp_path / "theirs")
  assert affinity.pin_to_a_free_core(tmp_path / "cores") is None


def test_each_worker_gets_a_core_of_its_own_until_it_ends(tmp_path):
  context = multiprocessing.get_context("spawn")
  queue = context.Queue()
  cores = sorted(os.sched_getaffinity(0))

  def start():
    process = context.Process(target=_pinned, args=(tmp_path / "locks", queue))
    process.start()
    return process, *queue.get(timeout=60)

  first, core, threads = start()
  assert core == cores[0]
  assert threads == {frozenset({core})}
  second, other, _ = start()
  assert other == (cores[1] if len(cores) > 1 else None)
  first.kill()
  first.join()
  third, again, _ = start()
  assert again == core
  for process in (second, third):
    process.kill()
    process.join()


@pytest.mark.slow
def test_a_cluster_by_address_refuses_other_tokens_and_outlives_a_lost_node(tmp_path):
  token = cluster.make_token(tmp_path / "token")
  wrong = cluster.make_token(tmp_path / "wrong")
  # Sockets need short paths.
  short = pathlib.Path("/tmp") / f"ur-test-{os.getpid()}"
  locations.private_folder(short)
  port = free_port()
  address = f"127.0.0.1:{port}"
  nodes = []
  try:
    nodes.append(
      Node(
        tmp_path,
        token,
        *("--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1"),
        *("--include-dashboard=false", f"--temp-dir={short}/r"),
      )
    )
    wait_for_port("127.0.0.1", port)
    nodes.append(Node(tmp_path, token, f"--address={address}", "--num-cpus=2"))

    with Launched(
      tmp_path / "refused", flags=(f"--address={address}", f"--token_file={wrong}"), workers=1
    ) as run:
      code, left = run.finish()
      assert (code, left) == (2, [])
      assert (
        run.output().splitlines()[-1].startswith(f"unsup-rule: error: Ray at {address} refused")
      )

    with Launched(tmp_path / "run", flags=(f"--address={address}", f"--token_file={token}")) as run:
      first = run.wait(all_workers_send)
      lost = {process.pid for process in nodes[1].family()}
      gone = [w for w in first["workers"].values() if w["pid"] in lost]
      assert gone
      # A learner there comes back on the head; of the workers, as many as have a core.
      nodes[1].kill()
      run.wait(
        lambda status: (
          any(
            w["gradients_per_second"] > 0 and w["silent_seconds"] < 2 and w["pid"] not in lost
            for w in status["workers"].values()
          )
          and status["pid"] not in lost
          and status["step"] > first["step"] + 50
        )
      )
      run.interrupt()
      code, _ = run.finish()
      assert code == 130, run.output()
      assert run.status()["state"] == "stopped"
  finally:
    for node in reversed(nodes):
      node.stop()
    shutil.rmtree(short, ignore_errors=True)


@pytest.mark.slow
def test_ray_starts_here_whatever_the_surroundings_say(tmp_path):
  """With the address of another cluster, and a deep temporary folder, as batch systems have."""
  deep = tmp_path / ("d" * 60) / ("e" * 20)
  deep.mkdir(parents=True)
  code = (
    "from unsup_rule.distributed import cluster\n"
    "with cluster.connected(None, 1) as ray:\n"
    "  print(ray.get(ray.remote(lambda: 3).remote()))\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    timeout=120,
    env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1", "TMPDIR": str(deep)},
  )
  assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
