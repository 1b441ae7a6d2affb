"""The driver: starts the learner and its workers as Ray actors, watches them, and ends them.

Ray starts a killed actor anew and runs its role again. The driver computes nothing and keeps no
state: where it dies the run ends, and the same command goes on from the last checkpoint.
"""

import contextlib
import dataclasses
import pathlib
import pickle
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import cast

from learned_optimization import distributed

from unsup_rule.distributed import actors, cluster, display, table
from unsup_rule.distributed.control import Control
from unsup_rule.distributed.controller import Controller, ControllerRole
from unsup_rule.distributed.evaluator import EvaluatorRole
from unsup_rule.distributed.learner import LearnerRole, Outcome
from unsup_rule.distributed.server import GradientServer
from unsup_rule.distributed.worker import WorkerRole
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import lock
from unsup_rule.meta.settings import Settings
from unsup_rule.meta.signals import StopRequest

_POLL_SECONDS = 0.5
_PING_SECONDS = 15.0
_STOP_SECONDS = 120.0
_LEAVE_SECONDS = 5.0
_LAST_SECONDS = 5.0
_REPORT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Launch:
  """What to start.

  Attributes:
    settings: what gin says.
    folder: of the run.
    n_workers: worker processes.
    controller: name of the actor of a population, or None.
    member: index in it.
    gpus: of each worker.
  """

  settings: Settings
  folder: pathlib.Path
  n_workers: int
  controller: str | None = None
  member: int = 0
  gpus: float = 0

  @property
  def learner(self) -> str:
    """Name of the learner's actor, as the library makes it from the folder."""
    return distributed.uniquify_server_name("learner", str(self.folder.resolve()))


def warnings(settings: Settings, n_workers: int) -> list[str]:
  """Returns what in the settings would waste gradients of so many workers."""
  staleness = settings.run.staleness
  # While a worker computes, each of the others delivers once.
  updates = -(-n_workers // settings.run.trainer_batch_size)
  if staleness >= updates:
    return []
  return [
    f"about {updates} updates happen while a worker computes one gradient, and run_train.staleness "
    f"is {staleness}: most gradients will be refused; try --gin_bindings "
    f"run_train.staleness={2 * updates}"
  ]


class Process:
  """An actor and the role that it runs, started anew whenever it is killed.

  Attributes:
    name: of the actor.
    actor: Ray's handle of it.
    result: Ray's reference to what the role returns.
  """

  def __init__(
    self, ray: ModuleType, name: str, role: actors.Role, cores: float = 0, gpus: float = 0
  ):
    """Starts it.

    Args:
      ray: the module.
      name: of the actor.
      role: what it runs.
      cores: that it takes of the cluster.
      gpus: the same.

    Raises:
      UnsupRuleError: there is an actor of that name.
    """
    self.name, self._ray, self._role, self._attempt = name, ray, pickle.dumps(role), 0
    self._ping = None
    host = ray.remote(concurrency_groups={"call": actors.CALLS_AT_ONCE})(actors.Host)
    try:
      self.actor = host.options(
        name=name,
        namespace=actors.NAMESPACE,
        num_cpus=cores,
        num_gpus=gpus,
        max_restarts=-1,
        # Of calls; only `run` is repeated, since callers repeat calls themselves.
        max_task_retries=0,
        runtime_env=cluster.environment(computes=cores > 0),
      ).remote()
    except ValueError as error:
      raise UnsupRuleError(
        f"the cluster still has a process {name} of this run; wait until it has noticed that the "
        "program which started it is gone, and try again"
      ) from error
    self.run()

  def run(self) -> None:
    """Runs the role, also one that has ended."""
    self._attempt += 1
    run = self.actor.run.options(max_task_retries=-1)
    self.result = run.remote(self._attempt, self._role)

  def ping(self) -> None:
    """Sends something to it, unless the last ping is under way.

    A break of the network may cost a result of `run`. Ray fetches it again once it finds the
    connection broken: when something is sent, and by itself within five minutes.
    """
    if self._ping is not None:
      if not self._ray.wait([self._ping], timeout=0)[0]:
        return
      with contextlib.suppress(self._ray.exceptions.RayError):
        self._ray.get(self._ping)
    ping = self.actor.ping.options(concurrency_group="call", max_task_retries=0)
    self._ping = ping.remote()

  def outcome(self) -> object:
    """Returns what the role returned, or raises its error in one line."""
    exceptions = self._ray.exceptions
    try:
      return self._ray.get(self.result)
    except exceptions.RayTaskError as error:
      cause = error.cause
      if isinstance(cause, UnsupRuleError):
        kind = type(cause) if isinstance(cause, actors.UnreachableError) else UnsupRuleError
        raise kind(str(cause).split("\n", 1)[0]) from error
      said = f"{type(cause).__name__}: {cause}".removesuffix(": ")
      raise UnsupRuleError(said.split("\n", 1)[0]) from error
    except exceptions.RayError as error:
      raise UnsupRuleError(f"Ray lost a process: {cluster.words(error)}") from error


def start(ray: ModuleType, launch: Launch) -> tuple[Process, list[Process]]:
  """Starts a learner and its workers."""
  text, imports, folder = _common(launch)
  learner = LearnerRole(text, imports, folder, launch.n_workers, launch.controller, launch.member)
  return Process(ray, launch.learner, learner), [
    Process(
      ray,
      f"{launch.learner}__worker_{index}",
      WorkerRole(
        text, imports, folder, launch.learner, index, launch.member * launch.n_workers + index
      ),
      cores=1,
      gpus=launch.gpus,
    )
    for index in range(launch.n_workers)
  ]


def train(ray: ModuleType, launch: Launch) -> Outcome:
  """Runs a learner and its workers to the end; returns what the learner returned.

  Raises:
    UnsupRuleError: the learner gave up, or no worker is left.
    KeyboardInterrupt, SystemExit: a signal came; all is saved.
  """
  launch = dataclasses.replace(launch, gpus=cluster.gpus_of_each(ray, launch.n_workers))
  learner, workers = start(ray, launch)
  served = actors.Remote[GradientServer](launch.learner, _REPORT_SECONDS)
  (result,) = _watched(
    ray, [learner], workers, [], lambda: table.render(served.call(GradientServer.report))
  )
  return result


def train_population(ray: ModuleType, launch: Launch, n_members: int) -> list[Outcome]:
  """Runs a population, each member with an equal share of the workers, to the end.

  Returns:
    What each learner returned.

  Raises:
    UnsupRuleError: a learner gave up, no worker is left, or another process trains in a member's
      folder.
    KeyboardInterrupt, SystemExit: a signal came; all is saved.
  """
  folders = [launch.folder / f"member_{member}" for member in range(n_members)]
  with contextlib.ExitStack() as held:
    for folder in folders:
      held.enter_context(lock.exclusive(folder))
    return _train_members(ray, launch, folders)


def _train_members(
  ray: ModuleType, launch: Launch, folders: Sequence[pathlib.Path]
) -> list[Outcome]:
  common = _common(launch)
  gpus = cluster.gpus_of_each(ray, launch.n_workers)
  controller = distributed.uniquify_server_name("population", str(launch.folder.resolve()))
  helpers = [
    Process(ray, controller, ControllerRole(*common)),
    Process(ray, f"{controller}__evaluator", EvaluatorRole(*common, controller)),
  ]
  learners, workers = [], []
  for member, folder in enumerate(folders):
    learner, its_workers = start(
      ray,
      dataclasses.replace(
        launch,
        folder=folder,
        n_workers=max(launch.n_workers // len(folders), 1),
        controller=controller,
        member=member,
        gpus=gpus,
      ),
    )
    learners.append(learner)
    workers += its_workers
  served = actors.Remote[Controller](controller, _REPORT_SECONDS)
  return _watched(
    ray, learners, workers, helpers, lambda: table.render_members(served.call(Controller.report))
  )


def _common(launch: Launch) -> tuple[str, list[str], pathlib.Path]:
  """Returns what every role is told."""
  return launch.settings.config_text, list(launch.settings.imports), launch.folder.resolve()


def _watched(
  ray: ModuleType,
  learners: Sequence[Process],
  workers: Sequence[Process],
  helpers: Sequence[Process],
  shown: Callable[[], str],
) -> list[Outcome]:
  """What the learners return; shows the table meanwhile, and stops them at a signal."""
  with StopRequest() as stop, display.Display(shown) as screen:
    try:
      results = _Watch(ray, learners, workers, helpers, stop, screen).until_done()
    except ray.exceptions.RayError as error:
      raise UnsupRuleError(
        f"Ray failed: {cluster.words(error)}; start the run again to go on"
      ) from error
    stop.raise_if_requested()
  return results


class _Watch:
  """Waits for learners, and sees to it that the other processes do their work meanwhile."""

  def __init__(
    self,
    ray: ModuleType,
    learners: Sequence[Process],
    workers: Sequence[Process],
    helpers: Sequence[Process],
    stop: StopRequest,
    screen: display.Display,
  ):
    self._ray, self._stop, self._screen = ray, stop, screen
    self._learners, self._all_workers, self._helpers = learners, workers, helpers
    self._running, self._workers = list(learners), list(workers)
    self._results: dict[str, Outcome] = {}
    self._asked_at: float | None = None
    self._pinged_at = time.monotonic()
    self._control = Control.of(ray)

  def until_done(self) -> list[Outcome]:
    """Returns the learners' results; raises an error of theirs, or of the last worker's."""
    while self._running:
      watched = [*self._running, *self._workers, *self._helpers]
      results = [process.result for process in watched]
      done, _ = self._ray.wait(results, num_returns=1, timeout=_POLL_SECONDS)
      for process in watched:
        if process.result in done:
          self._ended(process)
      self._see_to_connections()
      self._see_to_stopping()
      self._see_to_control()
      self._screen.refresh()
    # Workers go by themselves, at their next call, all but those in a long computation.
    results = [worker.result for worker in self._all_workers]
    self._ray.wait(results, num_returns=len(results), timeout=_LEAVE_SECONDS)
    return [self._results[learner.name] for learner in self._learners]

  def _ended(self, process: Process) -> None:
    try:
      outcome = process.outcome()
    except actors.UnreachableError as error:
      # It could not reach another one for too long, as where a network is cut in two.
      self._screen.say(f"{error}; started again")
      process.run()
    except UnsupRuleError as error:
      if process not in self._workers:
        raise
      self._screen.say(str(error))
      self._workers.remove(process)
      if not self._workers:
        self._ask_to_stop()
        raise UnsupRuleError(f"no worker is left, the last one said: {error}") from error
    else:
      if process in self._running:
        self._running.remove(process)
        self._results[process.name] = cast(Outcome, outcome)
      elif process in self._workers:
        self._workers.remove(process)

  def _see_to_connections(self) -> None:
    if time.monotonic() - self._pinged_at > _PING_SECONDS:
      self._pinged_at = time.monotonic()
      for process in [*self._running, *self._workers, *self._helpers]:
        process.ping()

  def _see_to_stopping(self) -> None:
    if self._stop.signal_number is not None and self._asked_at is None:
      self._asked_at = time.monotonic()
      self._ask_to_stop()
    if self._asked_at is not None and time.monotonic() - self._asked_at > _STOP_SECONDS:
      raise UnsupRuleError(
        f"the learner did not save within {_STOP_SECONDS:g} s; the run goes on from its last "
        "checkpoint when it is started again"
      )

  def _see_to_control(self) -> None:
    try:
      self._control.check()
    except UnsupRuleError as error:
      self._ask_to_stop(_LAST_SECONDS)
      results = [learner.result for learner in self._running]
      _, left = self._ray.wait(results, num_returns=len(results), timeout=_LAST_SECONDS)
      how = "from its last checkpoint" if left else "from where it is, all is saved,"
      raise UnsupRuleError(f"{error}; the run goes on {how} when it is started again") from error

  def _ask_to_stop(self, seconds: float = _STOP_SECONDS) -> None:
    """Asks learners to save and end; the call waits for one that is being started anew."""
    for learner in self._running:
      served = actors.Remote[GradientServer](learner.name, seconds, learner.actor)
      try:
        served.call(GradientServer.stop)
      except actors.UnreachableError as error:
        self._screen.say(str(error))
