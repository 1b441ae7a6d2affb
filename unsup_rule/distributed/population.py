"""Populations: the library's controller, made durable, and what gin can set about it."""

import dataclasses
import pathlib
import pickle
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
from learned_optimization.population import population as library_population

from unsup_rule import storage
from unsup_rule.distributed import courier, history, logs
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import gin_files
from unsup_rule.meta.heldout import HeldOut
from unsup_rule.meta.options import HeldoutFn, PopulationOptions, TrainerOptions
from unsup_rule.tasks.sampler import Problems
from unsup_rule.tasks.sources import DataSet, check_apart

_STATE = "population.state"
_KEPT_ROUNDS = 3  # Of theta that members may still be about to load.


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True, eq=False)
class MetaValidation(HeldOut):
  """`HeldOut` on one split that neither meta-training nor the final measurement sees.

  Attributes:
    split: both trained without labels and probed.
  """

  data: str | Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: {"name": "glyphs", "ways": (10,), "resolutions": (8,)}
  )
  split: str = "valid"

  def _problems(self, split: str) -> Problems:
    del split
    return super()._problems(self.split)


@gin.configurable(module="unsup_rule")
def perturb(
  bindings: Sequence[str], names: Sequence[str] = (), factors: Sequence[float] = (0.5, 1.0, 2.0)
) -> list[str]:
  """Multiplies numbers in bindings by factors drawn at random: a mutator's `mutate_fn`.

  Args:
    bindings: such as "Adam.learning_rate = 1e-3".
    names: which of them; () for all whose value is a number.
    factors: each as likely.
  """
  changed = []
  for binding in bindings:
    name, _, value = (part.strip() for part in binding.partition("="))
    if not names or name in names:
      try:
        binding = f"{name} = {float(value) * np.random.choice(factors):.6g}"
      except ValueError:
        if names:
          raise UnsupRuleError(
            f"perturb.names has {name}, but its value {value} is no number; leave it out"
          ) from None
    changed.append(binding)
  return changed


def fitness_of(options: PopulationOptions) -> HeldoutFn:
  """Returns what measures theta."""
  return options.fitness_fn or MetaValidation()


def check(options: PopulationOptions) -> None:
  """Refuses a population that cannot work.

  Raises:
    UnsupRuleError: no mutator, a bad interval or member, or fitness on training data.
  """
  options.check()
  fitness = fitness_of(options)
  if isinstance(fitness, MetaValidation):
    data = dataclasses.replace(DataSet.from_settings(fitness.data), split=fitness.split)
    check_apart(gin_files.bound("task_distribution.sources", ()), [dataclasses.asdict(data)])


class Controller(library_population.PopulationController):
  """The library's controller, whose state survives a crash, and that hands out evaluations.

  Fitness is better the larger; the library's mutators take the smallest value, its negative.
  """

  def __init__(self, members: Sequence[Any], mutator: Any, folder: pathlib.Path, seed: int):
    """Starts a population, or goes on with the one in the folder."""
    self._folder = folder
    self._history = history.History(folder)
    self._waiting: dict[int, tuple[str, int, str]] = {}
    self._fitness: dict[int, float] = {}
    self._recent: list[set[str]] = []
    super().__init__([list(member) for member in members], mutator, log_dir=str(folder))
    # Mutators draw from numpy's global generator; after a restart they go on with other numbers.
    np.random.seed(np.random.SeedSequence([seed, len(self._cached)]).generate_state(4))

  def member(self, worker_id: int) -> Any:
    """Returns what a member is to work on, as the library's `ActiveWorker`."""
    with self._lock:
      return self._active_workers[worker_id]

  def submit(self, worker_id: int, generation_id: str, step: int, params: str) -> None:
    """Asks for an evaluation; one that waits for the same member is replaced."""
    with self._lock:
      if generation_id in self._cached:
        self._waiting[worker_id] = (generation_id, step, params)

  def is_waiting(self, worker_id: int) -> bool:
    """Tells whether a member's theta still waits for its evaluation."""
    with self._lock:
      return worker_id in self._waiting

  def next_evaluation(self) -> tuple[int, str, int, str] | None:
    """Returns (member, generation, step, checkpoint) to evaluate, or None. It waits till done.

    One whose checkpoint is gone is given up: its member would wait for it for ever.
    """
    with self._lock:
      for worker_id, (generation_id, step, params) in list(self._waiting.items()):
        if pathlib.Path(params).exists():
          return worker_id, generation_id, step, params
        del self._waiting[worker_id]
    return None

  def evaluated(
    self, worker_id: int, generation_id: str, step: int, params: str, fitness: float
  ) -> None:
    """Takes the result of an evaluation; the mutator may act on it."""
    with self._lock:
      if self._waiting.get(worker_id) == (generation_id, step, params):
        # To the end, so that every member has its turn.
        del self._waiting[worker_id]
      known = self._cached.get(generation_id)
      if known is None or step in known.keys()[1:]:
        return  # Of no generation of ours, or evaluated before.
      first = known.values()[0]
      self._fitness[worker_id] = fitness
      self._history.add(worker_id, generation_id, first.parent, step, fitness, first.meta_params)
    self.set_eval(worker_id, generation_id, step, params, -fitness)
    with self._lock:
      self._prune()

  def report(self) -> list[dict[str, Any]]:
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
    in_use |= {generation_id for generation_id, _, _ in self._waiting.values()}
    if not self._recent or self._recent[-1] != in_use:
      self._recent = [*self._recent, in_use][-_KEPT_ROUNDS:]
    for folder in self._folder.glob("member_*/snapshots/*"):
      if not any(folder.name in kept for kept in self._recent):
        shutil.rmtree(folder, ignore_errors=True)


class Member:
  """What the library's loop of a learner takes for the controller."""

  _ASK_SECONDS = 1.0

  def __init__(self, server: str, generation: str | None):
    """Makes the link.

    Args:
      server: name of the controller's.
      generation: of the checkpoint that the learner goes on from, or None.
    """
    self._client = courier.Client(server)
    self._generation, self._first = generation, True
    self._asked = 0.0

  def maybe_get_worker_data(
    self, worker_id: int, generation_id: str, step: int, params: Any, meta_params: Any
  ) -> Any:
    """Asks now and then whether this member should go on as somebody else.

    A learner that was started anew is told to go on with its own checkpoint, where that belongs to
    the generation that it is to work on; the library alone would take the last one evaluated.
    """
    if self._first:
      self._first = False
      active = self._client.maybe_get_worker_data(
        worker_id, self._generation, step, params, meta_params
      )
      if active is None:
        active = self._client.member(worker_id).replace(params=None)
      return active
    if time.monotonic() - self._asked < self._ASK_SECONDS:
      return None
    self._asked = time.monotonic()
    return self._client.maybe_get_worker_data(worker_id, generation_id, step, params, meta_params)


def run_controller(config_text: str, imports: Sequence[str], folder: str, server: str) -> None:
  """Serves a population until the process is ended."""
  logs.redirect(folder, "controller")
  gin_files.parse_text(config_text, imports)
  options = PopulationOptions()
  controller = Controller(
    options.members, options.mutator, pathlib.Path(folder), TrainerOptions().seed
  )
  made = courier.Server(server)
  for handler in (
    controller.maybe_get_worker_data,
    controller.member,
    controller.submit,
    controller.is_waiting,
    controller.next_evaluation,
    controller.evaluated,
    controller.report,
  ):
    made.Bind(handler.__name__, handler)
  made.Start()
  print("controller: serving", flush=True)
  made.Join()
