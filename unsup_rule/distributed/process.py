"""What every role is told, and what it does first in its process."""

import contextlib
import dataclasses
import os
import pathlib
import sys
import threading
from collections.abc import Sequence

import gin

from unsup_rule.machine import compilation
from unsup_rule.meta import gin_files, settings

_reading = threading.Lock()


@dataclasses.dataclass(frozen=True)
class RunRole:
  """A role in a run.

  Attributes:
    config_text: the gin configuration.
    imports: modules that it needs.
    folder: of the run.
  """

  config_text: str
  imports: Sequence[str]
  folder: pathlib.Path

  def set_up(self, log: str) -> settings.Settings:
    """Sends what is printed to the log of this name, and reads the settings of the run.

    A role may be run again in a process that has been through this: gin begins anew.
    """
    redirect(self.folder, log)
    compilation.cache_on_disk()
    compilation.give_memory_back()
    with _reading:
      gin.clear_config()
      gin_files.parse_text(self.config_text, self.imports)
      return settings.read(self.config_text, self.imports)


def redirect(folder: str | os.PathLike, name: str) -> None:
  """Sends what this process prints to `folder/logs/<name>.txt`, behind what is there.

  Where the folder cannot be written, as on a machine that does not share it, all stays as it is.
  """
  path = pathlib.Path(folder) / "logs" / f"{name}.txt"
  with contextlib.suppress(OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
