"""The processor's cores as devices of jax, so that one process shares its tasks among them."""

import contextlib
import math
import os
import pathlib
from typing import Any

import jax


def available() -> int:
  """Number of cores that this process may use, by affinity and by the quota of a container."""
  allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return max(1, math.ceil(min(allowed or 1, quota())))


def quota(
  root: pathlib.Path = pathlib.Path("/sys/fs/cgroup"),
  own: pathlib.Path = pathlib.Path("/proc/self/cgroup"),
) -> float:
  """Cores' worth of time that Linux's control groups (version 2 or 1) allow; inf for no limit.

  Args:
    root: where they are mounted.
    own: says which group this process is in; those above it count too.
  """
  try:
    lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    groups = {name: path for _, names, path in lines for name in names.split(",")}
  except (OSError, ValueError):
    groups = {}
  folders = [*_with_parents(root, groups.get("", "/"))]
  folders += _with_parents(root / "cpu", groups.get("cpu", "/"))
  return min(map(_quota_of, folders))


def _with_parents(root: pathlib.Path, group: str) -> list[pathlib.Path]:
  """The folders of a group and of those above it, up to the root."""
  inside = pathlib.PurePosixPath(group.lstrip("/"))
  return [root / one for one in (inside, *inside.parents) if ".." not in one.parts]


def _quota_of(folder: pathlib.Path) -> float:
  """Of one group, by the files of version 2 or 1."""
  try:
    if (folder / "cpu.max").exists():
      most, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    else:
      most, period = (
        (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
        for name in ("quota", "period")
      )
    return float(most) / float(period) if float(most) > 0 < float(period) else math.inf
  except (OSError, ValueError):  # No control groups, or "max".
    return math.inf


def devices() -> str:
  """What jax computes on, for people: "2 CPU cores", "1 NVIDIA H200"."""
  found = jax.devices()
  if found[0].platform == "cpu":
    return f"{len(found)} CPU core{'s' if len(found) > 1 else ''}"
  return f"{len(found)} {found[0].device_kind}"


def on_host() -> contextlib.AbstractContextManager[object]:
  """Has jax compute on the processor within: what is small, or is read there anyway.

  Where a processor is all there is, or jax was told not to use it (`JAX_PLATFORMS=cuda`), it
  changes nothing.
  """
  if jax.default_backend() == "cpu":
    return contextlib.nullcontext()
  try:
    processor = jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return contextlib.nullcontext()
  return jax.default_device(processor)


def as_devices(at_most: int | None = None) -> None:
  """Gives jax a CPU device for each core; the estimators of `compat` make use of all.

  Call it before jax computes anything: afterwards, or where jax was told how many there are
  (`JAX_NUM_CPU_DEVICES`, `XLA_FLAGS`), it changes nothing.

  Args:
    at_most: tasks to share; a device without one would be idle.
  """
  config: Any = jax.config
  told = config.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", "")
  if not told:
    with contextlib.suppress(RuntimeError):  # jax has started
      jax.config.update("jax_num_cpu_devices", max(1, min(available(), at_most or available())))
