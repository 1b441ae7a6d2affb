"""Cells on all cores: worker processes of one core each.

A cell is measured by one process from beginning to end, with one thread, so that its numbers are
the same whatever the number of processes. Results go to this process, which alone writes them.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from unsup_rule.evaluation import measuring
from unsup_rule.evaluation import plan as plans
from unsup_rule.evaluation.methods import READOUTS
from unsup_rule.evaluation.store import Row
from unsup_rule.evaluation.suite import Cell
from unsup_rule.machine import compilation

# Read by XLA, by OpenMP (scikit-learn) and by numpy's linear algebra when they start.
_ONE_THREAD = {
  "NPROC": "1",
  "OMP_NUM_THREADS": "1",
  "OPENBLAS_NUM_THREADS": "1",
  "MKL_NUM_THREADS": "1",
  "NUMBA_NUM_THREADS": "1",
}
_SECONDS = 1.0  # at most, without a word of what is measured
_SPAWN = multiprocessing.get_context("spawn")  # A fork would inherit jax's threads, stopped.


def run(
  cells: Sequence[Cell], plan: plans.Plan, folder: pathlib.Path, origin: Row, count: int
) -> Iterator[tuple[Cell, float | Row]]:
  """Measures cells in worker processes; all are ended when the iterator is.

  Args:
    cells: what to measure, of `plan`.
    plan: from which workers read the cells.
    folder: for the arrays that figures need.
    origin: kept with each result.
    count: worker processes.

  Yields:
    A cell and how much of its cost was done, once a second at least while it is measured, and then
    its row.
  """
  rest = sorted(cells, key=lambda cell: -cell.cost)
  workers = [_Worker(plan, folder, origin) for _ in range(min(count, len(cells)))]
  try:
    while rest or any(worker.cell for worker in workers):
      for worker in workers:
        cell = None if worker.cell else _next(rest, worker, workers)
        if cell is not None:
          rest.remove(cell)
          worker.start(cell)
      busy = {worker.connection: worker for worker in workers if worker.cell}
      ready = wait(list(busy), _SECONDS)
      if not ready:
        yield next((worker.cell, 0.0) for worker in workers if worker.cell)
      for connection in ready:
        worker = busy[connection]  # type: ignore[index]  (these very objects come back)
        assert worker.cell is not None
        yield worker.cell, worker.receive()
  finally:
    for worker in workers:
      worker.end()


def _next(rest: list[Cell], worker: "_Worker", workers: "Sequence[_Worker]") -> Cell | None:
  """A cell that shares most with the worker's last one, or the longest whose programs nobody has.

  None if all that are left read models which another worker trains: it will have them soon.
  """
  others = [other for other in workers if other is not worker]
  trained = {other.models for other in others if other.cell}
  free = [cell for cell in rest if _models(cell) not in trained]
  compiled = {other.programs for other in others}
  ranked = (
    [cell for cell in free if _models(cell) == worker.models]
    or [cell for cell in free if _programs(cell) == worker.programs]
    or [cell for cell in free if _programs(cell) not in compiled]
    or free
  )
  return ranked[0] if ranked else None


def _programs(cell: Cell) -> tuple[object, ...]:
  """What cells that share compiled programs have in common."""
  s = cell.setting
  size = (s.data.name if s.data.resolution is None else "", s.data.resolution)
  method = READOUTS.get(cell.name, cell.name)
  return (method, size, s.width, s.hidden_layers, s.nonlinearity, s.batch_size)


def _models(cell: Cell) -> tuple[object, ...]:
  """What cells that share trained models have in common."""
  s = cell.setting
  return (*_programs(cell), cell.identity.get("theta"), s.data, s.permute, s.seed)


class _Worker:
  """One process, the cell it measures, and what the last one compiled and trained."""

  def __init__(self, plan: plans.Plan, folder: pathlib.Path, origin: Row):
    self.cell: Cell | None = None
    self.programs: tuple[object, ...] | None = None
    self.models: tuple[object, ...] | None = None
    self._arguments = (plan, folder, origin)
    self._begin()

  def _begin(self) -> None:
    self.connection, theirs = _SPAWN.Pipe()
    self._process = _SPAWN.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
    with _environment(_ONE_THREAD):
      self._process.start()
    theirs.close()

  def start(self, cell: Cell) -> None:
    """Sends a cell."""
    self.cell, self.programs, self.models = cell, _programs(cell), _models(cell)
    with contextlib.suppress(OSError):  # It is dead, which `receive` says.
      self.connection.send(cell.key)

  def receive(self) -> float | Row:
    """Progress, or the row of the cell; of a process that died, a failed row."""
    assert self.cell is not None
    try:
      message = self.connection.recv()
    except (EOFError, OSError):
      self._process.join()
      reason = (
        f"its process ended with code {self._process.exitcode}: for want of memory, or since the "
        "program was changed while it ran"
      )
      row = self.cell.row(self._arguments[-1])
      message = {**row, "status": "failed", "reason": reason, "seconds": 0.0, "cpu_seconds": 0.0}
      self._begin()
    if isinstance(message, dict):
      self.cell = None
    return message

  def end(self) -> None:
    """Ends the process, whatever it does; one that waits for a cell ends by itself, and tidies."""
    self.connection.close()
    if self.cell is None:
      self._process.join(timeout=5)
    self._process.terminate()
    self._process.join(timeout=5)
    self._process.kill()
    self._process.join()


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
  """Sets variables for processes that are started meanwhile."""
  before = {name: os.environ.get(name) for name in changes}
  os.environ.update(changes)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def _serve(connection: Connection, plan: plans.Plan, folder: pathlib.Path, origin: Row) -> None:
  """Measures the cells that it is sent, until there is nobody to send them."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that started it ends it.
  compilation.cache_on_disk()
  cells: dict[str, Cell] = {cell.key: cell for cell in plans.read(plan).cells}
  with contextlib.suppress(EOFError, OSError):
    while True:
      cell = cells[connection.recv()]
      connection.send(measuring.attempt(cell, folder, origin, lambda n: connection.send(float(n))))
