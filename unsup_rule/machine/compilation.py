"""Compiled programs kept on disk, so that only the first run of a program compiles it."""

import contextlib
import os
from typing import Any

import jax

from unsup_rule import storage


def cache_on_disk() -> None:
  """Turns on jax's persistent cache in our cache folder, unless jax was told of another.

  A folder that cannot be made is done without: the cache saves time and nothing else.
  `JAX_ENABLE_COMPILATION_CACHE=0` turns it off.
  """
  config: Any = jax.config
  if config.jax_compilation_cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return
  folder = storage.cache_folder() / f"jax-{jax.__version__}"
  with contextlib.suppress(OSError):
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
