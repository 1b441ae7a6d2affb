"""Ray: started on this machine in this process's own name and stopped again, or joined by address.

Ray listens on all interfaces, and whoever may talk to it can run code. So a random token, in a file
that the user alone can read, is asked of everyone, also where Ray would not by itself.
"""

import contextlib
import importlib
import importlib.util
import math
import os
import pathlib
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from types import ModuleType

import psutil

from unsup_rule import extras, locations
from unsup_rule.distributed import actors
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import scratch
from unsup_rule.meta import progress

_PROBE_SECONDS = 5.0
_SHUTDOWN_SECONDS = 10.0
_JOIN_PAUSES = (1.0, 4.0)
_OBJECT_STORE_BYTES = 512 * 2**20
# What decides how a process behaves, and is not inherited by processes on a cluster.
_INHERITED = (
  "GLIBC_TUNABLES",
  "JAX_COMPILATION_CACHE_DIR",
  "JAX_PLATFORMS",
  "PYTHONPATH",
  "TF_CPP_MIN_LOG_LEVEL",
  "TF_ENABLE_ONEDNN_OPTS",
)
# XLA takes the temporaries of a program fresh from the kernel each time that it runs; clearing
# pages of 4 kB takes a sixth of the time of a truncation at the paper's sizes.
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_NO_GPU = {"JAX_PLATFORMS": "cpu"}


def check_installed() -> None:
  """Raises UnsupRuleError where Ray is not installed; does not import it."""
  if importlib.util.find_spec("ray") is None:
    raise UnsupRuleError(f"launch needs Ray, and it is not installed: {extras.remedy('ray')}")


def make_token(path: pathlib.Path) -> pathlib.Path:
  """Writes a new random token for the owner's eyes alone, unless the file exists; returns it.

  Raises:
    UnsupRuleError: the file can be read by others, or cannot be written.
  """
  locations.private_folder(path.parent)
  with contextlib.suppress(FileExistsError):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
      stream.write(secrets.token_hex(32))
  if path.stat().st_mode & 0o077:
    raise UnsupRuleError(f"{path} can be read by others; run chmod 600 {path}, or make a new one")
  return path


@contextlib.contextmanager
def connected(
  address: str | None, n_workers: int, token: str | None = None
) -> Iterator[ModuleType]:
  """Within it Ray runs; yields the module.

  Args:
    address: "host:port" of a cluster's head; None starts Ray here, for as long as the context.
    n_workers: processes that need a core each.
    token: path of the cluster's token file; `RAY_AUTH_TOKEN_PATH`, or Ray's own default, if None.

  Raises:
    UnsupRuleError: nobody listens at the address, or the token is refused.
  """
  check_installed()
  with _started_here(n_workers) if address is None else _joined(address, token) as ray:
    yield ray


def environment(computes: bool) -> dict[str, dict[str, str]]:
  """Returns the runtime environment of an actor; `computes` says whether that is its work.

  Workers may share a GPU, so none takes more of its memory than it needs; whoever does not compute
  leaves GPUs alone.
  """
  given = {name: os.environ[name] for name in _INHERITED if name in os.environ}
  own = {**_HUGE_PAGES, **_SHARED_GPU} if computes else _NO_GPU
  return {"env_vars": {**own, **given}}


def gpus_of_each(ray: ModuleType, n_workers: int) -> float:
  """GPUs of each worker: one, an equal part of one where there are fewer, or none."""
  total = ray.cluster_resources().get("GPU", 0)
  return min(1.0, math.floor(1000 * total / n_workers) / 1000)


@contextlib.contextmanager
def _started_here(n_workers: int) -> Iterator[ModuleType]:
  folder = scratch.own_folder()
  # Ray opens its own folder to all users; the one around it is closed.
  inside = locations.private_folder(folder / "r")
  ray = _import_ray(
    RAY_AUTH_TOKEN_PATH=str(make_token(folder / "token")),
    RAY_TMPDIR=str(inside),
    # By default Ray lets everything else on the machine go first.
    RAY_worker_niceness="0",
  )
  try:
    with _one_line("cannot start Ray on this machine"):
      ray.init(
        address="local",  # whatever RAY_ADDRESS says
        num_cpus=max(n_workers, os.cpu_count() or 1),
        include_dashboard=False,
        namespace=actors.NAMESPACE,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=_OBJECT_STORE_BYTES,
        _temp_dir=str(inside),
      )
    yield ray
  finally:
    started = psutil.Process().children(recursive=True)
    _leave(ray)
    _gone(started)
    shutil.rmtree(inside, ignore_errors=True)


@contextlib.contextmanager
def _joined(address: str, token: str | None) -> Iterator[ModuleType]:
  _probe(address)
  _check_token(token)
  ray = _import_ray(**({"RAY_AUTH_TOKEN_PATH": token} if token else {}))
  try:
    with _one_line(f"Ray at {address} refused (is --token_file the cluster's?)"):
      join(ray, address)
    yield ray
  finally:
    _leave(ray)


def join(ray: ModuleType, address: str) -> None:
  """Connects `ray` to the cluster.

  A head that has just been started listens before it knows its own node, and refuses until then; so
  it is asked three times.

  Raises:
    ConnectionError: it refused each time.
  """
  for pause in (*_JOIN_PAUSES, None):
    try:
      ray.init(
        address=address,
        namespace=actors.NAMESPACE,
        log_to_driver=False,
        logging_level="error",
      )
      return
    except ConnectionError:
      if pause is None:
        raise
      ray.shutdown()
      time.sleep(pause)


def _leave(ray: ModuleType) -> None:
  """Disconnects; what goes wrong with that is told, and does not decide how the run ended."""
  try:
    ray.shutdown()
  except Exception as error:
    progress.say(f"on leaving Ray: {type(error).__name__}: {error}")


def _gone(processes: list[psutil.Process]) -> None:
  """Returns when none of them is left; Ray leaves a moment before its last ones."""
  _, left = psutil.wait_procs(processes, timeout=_SHUTDOWN_SECONDS)
  for process in left:
    with contextlib.suppress(psutil.NoSuchProcess):
      process.kill()
  psutil.wait_procs(left, timeout=_SHUTDOWN_SECONDS)


def _import_ray(**variables: str) -> ModuleType:
  """Sets what Ray reads when it is imported, and imports it."""
  # Without the mode a driver is refused even with the right token.
  os.environ.update(RAY_AUTH_MODE="token", **variables)
  os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # One less thing that leaves the machine.
  os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
  return importlib.import_module("ray")


def _check_token(given: str | None) -> None:
  if given is None and "RAY_AUTH_TOKEN" in os.environ:
    return
  path = locations.expanded(given or os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
  try:
    mode = path.stat().st_mode
  except OSError as error:
    raise UnsupRuleError(
      f"no token at {path}: {error.strerror}; give the cluster's token file with --token_file"
    ) from error
  if mode & 0o077:
    raise UnsupRuleError(f"{path} can be read by others; run chmod 600 {path}")


def _probe(address: str) -> None:
  """Fails at once where nobody listens: ray.init would try for ten minutes."""
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS):
      pass
  except (OSError, ValueError) as error:
    raise UnsupRuleError(
      f"nobody answers at --address={address} ({error}); give host:port of a running head, as "
      "`ray start --head` printed it"
    ) from error


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
  try:
    yield
  except (RuntimeError, ConnectionError, OSError, ValueError) as error:
    raise UnsupRuleError(f"{what}: {words(error)}") from error


def words(error: Exception) -> str:
  """The beginning of what an error says, as one line; Ray's have many."""
  return " ".join(str(error).split())[:300]
