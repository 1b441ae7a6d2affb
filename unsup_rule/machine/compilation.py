"""Compiled programs kept on disk, so that only the first run of a program compiles it."""

import contextlib
import functools
import importlib.util
import os
from typing import Any

import jax

from unsup_rule import locations
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import memory

# Measured on an H200: the products of an estimate are small and many. With kernels of XLA's own for
# them, each tried in several forms, it compiles three to five times longer and runs no faster.
_GPU_FLAGS = ("--xla_gpu_enable_triton_gemm=false", "--xla_gpu_autotune_level=0")


def quickly_on_gpus() -> None:
  """Has XLA:GPU use the vendor's products; for what `XLA_FLAGS` sets already, that stays.

  Call it before jax computes anything.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  ours = [flag for flag in _GPU_FLAGS if flag.split("=")[0] not in flags]
  plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
  if any(importlib.util.find_spec(plugin) for plugin in plugins):
    os.environ["XLA_FLAGS"] = " ".join([*ours, flags]).strip()


def cache_on_disk() -> None:
  """Turns on jax's persistent cache in our cache folder, unless jax was told of another.

  A folder that cannot be made, or is another user's, is done without: the cache saves time and
  nothing else.
  `JAX_ENABLE_COMPILATION_CACHE=0` turns it off.
  """
  config: Any = jax.config
  if config.jax_compilation_cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return
  # Its entries are native code: nobody else may write there.
  with contextlib.suppress(UnsupRuleError):
    folder = locations.private_folder(locations.cache_folder() / f"jax-{jax.__version__}")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@functools.cache
def give_memory_back(least_seconds: float = 2.0) -> None:
  """From now on, what a long compilation has freed goes back to the system before the program runs.

  At the paper's sizes it is a gigabyte, and the first estimate takes another.

  Args:
    least_seconds: a compilation that is worth the tenth of a second that it takes.
  """

  def after(event: str, duration_secs: float, **_: str | int) -> None:
    if "backend_compile" in event and duration_secs >= least_seconds:
      memory.give_back()

  jax.monitoring.register_event_duration_secs_listener(after)
