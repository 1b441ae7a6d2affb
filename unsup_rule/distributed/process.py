"""What every role does first in its process."""

import pathlib
import threading
from collections.abc import Sequence

import gin

from unsup_rule.distributed import logs
from unsup_rule.machine import compilation
from unsup_rule.meta import gin_files, settings

_reading = threading.Lock()


def set_up(
  folder: pathlib.Path, log: str, config_text: str, imports: Sequence[str]
) -> settings.Settings:
  """Sends what is printed to the run's folder, and reads the settings of the run.

  A role may be run again in a process that has been through this: gin begins anew.

  Args:
    folder: of the run.
    log: name of the process's log.
    config_text: the gin configuration.
    imports: modules that it needs.
  """
  logs.redirect(folder, log)
  compilation.cache_on_disk()
  with _reading:
    gin.clear_config()
    gin_files.parse_text(config_text, imports)
    return settings.read(config_text, imports)
