"""TensorBoard scalars through the tensorboard package's own record format; no TensorFlow."""

# pyright: reportAttributeAccessIssue=false
# Message classes are made when the module is imported, so a checker cannot see them.

import os
import pathlib
import socket
import time
from collections.abc import Mapping

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


class EventWriter:
  """Writes scalars to a new event file in a folder; each call's events are flushed at once."""

  def __init__(self, folder: str | os.PathLike, first_step: int):
    """Opens the file.

    Args:
      folder: TensorBoard's log folder.
      first_step: where this session goes on. TensorBoard drops what an earlier session that was
        killed wrote at this step or later.
    """
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
    # Unbuffered, so that nothing is left in this process when it is killed.
    self._records = RecordWriter(
      open(pathlib.Path(folder) / name, "wb", buffering=0)  # noqa: SIM115  See close().
    )
    self._write(event_pb2.Event(file_version="brain.Event:2"))
    started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(event_pb2.Event(step=first_step, session_log=started))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes `values` by tag, at `step`."""
    entries = [
      summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()
    ]
    self._write(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=entries)))

  def close(self) -> None:
    """Closes the file."""
    self._records.close()

  def _write(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    self._records.write(event.SerializeToString())
