"""Where the processes of a run write what they print."""

import contextlib
import os
import pathlib
import sys


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
