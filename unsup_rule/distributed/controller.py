"""The controller of a population: the library's, made durable, and what it serves to members."""

import dataclasses
import pathlib
import pickle
import shutil
import threading
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from learned_optimization.population import population as library_population
from learned_optimization.population.population import ActiveWorker, Mutate

from unsup_rule import storage
from unsup_rule.distributed import actors, history, process
from unsup_rule.distributed.statistics import Report

_STATE = "population.state"
_KEPT_ROUNDS = 3  # Of theta that members may still be about to load.
_ASK_SECONDS = 1.0


class Evaluation(NamedTuple):
  """A theta to measure: whose, of which generation and update, and its checkpoint's path."""

  member: int
  generation: str
  step: int
  path: str


@dataclasses.dataclass(frozen=True)
class ControllerRole(process.RunRole):
  """Serves a population until the process is ended."""

  def run(self, serve: actors.Serve) -> None:
    """Serves a `Controller`."""
    found = self.set_up("controller")
    options = found.population
    assert options.mutator is not None  # The driver has checked it.
    serve(Controller(options.members, options.mutator, self.folder, found.trainer.seed))
    print("controller: serving", flush=True)
    threading.Event().wait()


class Controller(library_population.PopulationController):
  """The library's controller, whose state survives a crash, and that hands out evaluations.

  Fitness is better the larger; the library's mutators take the smallest value, its negative.
  """

  def __init__(
    self, members: Sequence[Sequence[str]], mutator: Mutate, folder: pathlib.Path, seed: int
  ):
    """Starts a population, or goes on with the one in the folder."""
    self._folder = folder
    self._waiting: dict[int, Evaluation] = {}
    self._fitness: dict[int, float] = {}
    self._recent: list[set[str]] = []
    super().__init__([list(member) for member in members], mutator, log_dir=str(folder))
    # Mutators draw from numpy's global generator; after a restart they go on with other numbers.
    np.random.seed(np.random.SeedSequence([seed, len(self._cached)]).generate_state(4))

  def member(self, worker_id: int) -> ActiveWorker:
    """Returns what a member is to work on."""
    with self._lock:
      return self._active_workers[worker_id]

  def submit(self, evaluation: Evaluation) -> None:
    """Asks for an evaluation; one that waits for the same member is replaced."""
    with self._lock:
      if evaluation.generation in self._cached:
        self._waiting[evaluation.member] = evaluation

  def is_waiting(self, worker_id: int) -> bool:
    """Tells whether a member's theta still waits for its evaluation."""
    with self._lock:
      return worker_id in self._waiting

  def next_evaluation(self) -> Evaluation | None:
    """Returns what to evaluate, or None. It waits till it is done.

    One whose checkpoint is gone is given up: its member would wait for it for ever.
    """
    with self._lock:
      for member, evaluation in list(self._waiting.items()):
        if pathlib.Path(evaluation.path).exists():
          return evaluation
        del self._waiting[member]
    return None

  def evaluated(self, evaluation: Evaluation, fitness: float) -> None:
    """Takes the result of an evaluation; the mutator may act on it."""
    member, generation, step, path = evaluation
    with self._lock:
      if self._waiting.get(member) == evaluation:
        # To the end, so that every member has its turn.
        del self._waiting[member]
      known = self._cached.get(generation)
      if known is None or step in known.keys()[1:]:
        return  # Of no generation of ours, or evaluated before.
      first = known.values()[0]
      self._fitness[member] = fitness
      history.add(self._folder, member, generation, first.parent, step, fitness, first.meta_params)
    self.set_eval(member, generation, step, path, -fitness)
    with self._lock:
      self._prune()

  def report(self) -> list[Report]:
    """Returns the members, for people."""
    with self._lock:
      return [
        {
          "generation": worker.generation_id,
          "step": worker.step,
          "bindings": list(worker.meta_params),
          "fitness": self._fitness.get(index),
        }
        for index, worker in enumerate(self._active_workers)
      ]

  def load_state(self) -> bool:
    """Reads the newest state that is whole."""
    for path in (self._folder / _STATE, self._folder / f"{_STATE}.before"):
      try:
        self._active_workers, self._cached, self._mutate_state = pickle.loads(path.read_bytes())
        return True
      except FileNotFoundError:
        continue
      except Exception as error:
        warnings.warn(f"{path} is damaged ({error}); trying the one before it", stacklevel=2)
    return False

  def save_state(self) -> None:
    """Writes the state atomically, and keeps the one before it."""
    path = self._folder / _STATE
    if path.exists():
      storage.write_bytes(self._folder / f"{_STATE}.before", path.read_bytes())
    storage.write_bytes(path, self.serialized_state() or b"")

  def _prune(self) -> None:
    """Removes theta that no member can be about to load."""
    in_use = {worker.generation_id for worker in self._active_workers}
    in_use |= {
      pathlib.Path(worker.params).parent.name for worker in self._active_workers if worker.params
    }
    in_use |= {evaluation.generation for evaluation in self._waiting.values()}
    if not self._recent or self._recent[-1] != in_use:
      self._recent = [*self._recent, in_use][-_KEPT_ROUNDS:]
    for folder in self._folder.glob("member_*/snapshots/*"):
      if not any(folder.name in kept for kept in self._recent):
        shutil.rmtree(folder, ignore_errors=True)


class Membership:
  """A learner's link to the controller of its population."""

  def __init__(
    self,
    controller: actors.Caller[Controller],
    member: int,
    generation: str | None,
    step: int,
    every: int,
  ):
    """Makes the link.

    Args:
      controller: calls the controller.
      member: index of the learner.
      generation: of the checkpoint that the learner goes on from, or None.
      step: its number of updates.
      every: updates between two evaluations.
    """
    self._controller, self._member = controller, member
    self._generation, self._every = generation, every
    self._current: ActiveWorker | None = None
    self._asked, self._submitted = 0.0, step

  def news(self, step: int) -> ActiveWorker | None:
    """Asks now and then whether this member is to go on as somebody else, after `step` updates.

    A learner that was started anew is told to go on with its own checkpoint, where that belongs to
    the generation that it is to work on; the library alone would take the last one evaluated.
    """
    if self._current is not None and time.monotonic() - self._asked < _ASK_SECONDS:
      return None
    self._asked = time.monotonic()
    known = self._current
    found = self._controller.call(
      Controller.maybe_get_worker_data,
      self._member,
      known.generation_id if known else self._generation,
      step,
      known.params if known else None,
      known.meta_params if known else None,
    )
    if found is None and known is None:
      own = self._controller.call(Controller.member, self._member)
      # A flax dataclass, opaque to type checkers.
      found = dataclasses.replace(own, params=None)  # pyright: ignore[reportArgumentType]
    self._current = found or known
    return found

  def is_due(self, step: int) -> bool:
    """Tells whether theta is to be evaluated after `step` updates."""
    if step % self._every or step <= self._submitted:
      self._submitted = min(step, self._submitted)  # Another member's theta may be younger.
      return False
    return True

  def is_waiting(self) -> bool:
    """Tells whether the evaluation before still waits."""
    return self._controller.call(Controller.is_waiting, self._member)

  def submit(self, generation: str, step: int, path: pathlib.Path | None) -> None:
    """Asks for the evaluation of a checkpoint, or takes note that there is none."""
    self._submitted = step
    if path is not None:
      evaluation = Evaluation(self._member, generation, step, str(path))
      self._controller.call(Controller.submit, evaluation)
