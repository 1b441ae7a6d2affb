"""What a learner knows of its workers: who joined, what they sent, what was refused and why."""

import collections
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError

Report = dict[str, Any]  # As JSON has it: numbers, texts, lists and dictionaries of them.
REFUSALS: Mapping[str, str] = {
  "stale": "computed with a theta that is more updates old than run_train.staleness",
  "not finite": "NaN or infinite",
  "repeated": "sent before",
  "lost theta": "computed with a theta that a killed learner took along, or of another generation",
  "superseded": "from a process that another one has replaced",
  "buffer full": "more than the learner could use",
}
_RATE_WINDOW_SECONDS = 30.0
_MOMENTUM = 0.95


class RestartCounts:
  """How often each process of a run was started anew, kept in `restarts.json` of its folder."""

  def __init__(self, folder: pathlib.Path):
    self._path = folder / "restarts.json"
    try:
      self._counts = {str(name): int(n) for name, n in json.loads(reading.text(self._path)).items()}
    except FileNotFoundError:
      self._counts = {}
    except storage.DAMAGE as error:
      raise UnsupRuleError(
        f"{self._path} is damaged ({error}); restore it, or start anew in another --train_log_dir"
      ) from error

  def next(self, name: str) -> int:
    """Counts a start of `name`; returns its number from 0. On disk when it returns."""
    number = self._counts.get(name, -1) + 1
    self._counts[name] = number
    storage.write_text(self._path, json.dumps(self._counts))
    return number

  def current(self, name: str) -> int:
    """Returns the number of the last start of `name`, or -1."""
    return self._counts.get(name, -1)


class _Worker:
  def __init__(self, about: Mapping[str, object]):
    self.about = dict(about)
    self.restarts = 0
    self.accepted = 0
    self.refused = 0
    self.last_seen = time.monotonic()
    self.accepted_at: collections.deque[float] = collections.deque(maxlen=256)


class WorkerStatistics:
  """Counts gradients; not safe for threads, its owner locks.

  Attributes:
    accepted: gradients that went into the buffer, over all sessions.
    refused: others, by reason.
    sequences: of each worker, (restart, number) of the last gradient taken note of.
    losses: moving averages of the meta-loss by data set.
  """

  def __init__(self, saved: Mapping[str, Any] | None = None):
    """Starts at zero, or with what `to_state` returned."""
    saved = saved or {}
    self.accepted = int(saved.get("accepted", 0))
    self.refused = dict.fromkeys(REFUSALS, 0) | {
      str(reason): int(count) for reason, count in saved.get("refused", {}).items()
    }
    self.sequences: dict[int, tuple[int, int]] = {
      int(worker): (int(pair[0]), int(pair[1]))
      for worker, pair in saved.get("sequences", {}).items()
    }
    self._workers: dict[int, _Worker] = {}
    self._accepted_at: collections.deque[float] = collections.deque(maxlen=65536)
    self.losses: dict[str, float] = {}
    self._began = time.monotonic()

  def to_state(self) -> dict[str, object]:
    """Returns the counts for a checkpoint."""
    return {
      "accepted": self.accepted,
      "refused": dict(self.refused),
      "sequences": {str(worker): list(pair) for worker, pair in self.sequences.items()},
    }

  def joined(self, worker: int, restart: int, about: Mapping[str, object]) -> None:
    """Takes note of a worker's process."""
    known = self._workers[worker] = self._workers.get(worker) or _Worker(about)
    known.about, known.restarts = dict(about), restart
    known.last_seen = time.monotonic()

  def seen(self, worker: int) -> None:
    """Takes note of a sign of life."""
    self._worker(worker).last_seen = time.monotonic()

  def is_new(self, worker: int, restart: int, number: int) -> bool:
    """Tells whether this gradient was not sent before, and takes note of it."""
    if (restart, number) <= self.sequences.get(worker, (-1, -1)):
      return False
    self.sequences[worker] = (restart, number)
    return True

  def accept(self, worker: int) -> None:
    """Counts a gradient that went into the buffer."""
    self.accepted += 1
    known = self._worker(worker)
    known.accepted += 1
    now = time.monotonic()
    known.accepted_at.append(now)
    self._accepted_at.append(now)

  def refuse(self, reason: str, worker: int | None = None, number: int = 1) -> None:
    """Counts gradients that were not used."""
    self.refused[reason] += number
    if worker is not None:
      self._worker(worker).refused += number

  def add_losses(self, losses: Mapping[str, Sequence[float]]) -> None:
    """Averages losses by name, later ones with more weight."""
    for name, values in losses.items():
      for value in values:
        self.losses[name] = _MOMENTUM * self.losses.get(name, value) + (1 - _MOMENTUM) * value

  def quiet(self, n_workers: int) -> str:
    """Says of which workers nothing was heard for how long."""
    now = time.monotonic()
    found = [
      f"{worker} (for {now - self._workers[worker].last_seen:.0f} s)"
      if worker in self._workers
      else f"{worker} (never heard of)"
      for worker in range(n_workers)
    ]
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")

  def report(self) -> Report:
    """Returns all of it for people and for TensorBoard."""
    now = time.monotonic()
    return {
      "gradients": self.accepted,
      "gradients_per_second": self._rate(self._accepted_at, now),
      "refused": dict(self.refused),
      "losses": dict(self.losses),
      "workers": {
        str(index): {
          **worker.about,
          "gradients": worker.accepted,
          "refused": worker.refused,
          "gradients_per_second": self._rate(worker.accepted_at, now),
          "silent_seconds": now - worker.last_seen,
          "restarts": worker.restarts,
        }
        for index, worker in sorted(self._workers.items())
      },
    }

  def _worker(self, index: int) -> _Worker:
    if index not in self._workers:
      self._workers[index] = _Worker({})
    return self._workers[index]

  def _rate(self, times: collections.deque[float], now: float) -> float:
    """Gradients a second over the last window."""
    span = min(_RATE_WINDOW_SECONDS, now - self._began)
    recent = [at for at in times if at > now - span]
    if len(recent) == times.maxlen:  # The window reaches further back than the record.
      span = now - recent[0]
    return len(recent) / max(span, 1e-3)
