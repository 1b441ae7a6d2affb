"""The driver: starts the learner and its workers as Ray actors, watches them, and ends them.

Ray starts a killed actor anew and runs its role again. The driver computes nothing and keeps no
state: where it dies the run ends, and the same command goes on from the last checkpoint.
"""

import dataclasses
import pathlib
import pickle
import time
from collections.abc import Sequence
from typing import Any

from learned_optimization import distributed

from unsup_rule.distributed import cluster, courier, display, table
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import gin_files
from unsup_rule.meta.signals import StopRequest

_POLL_SECONDS = 0.5
_STOP_SECONDS = 120.0
_LEAVE_SECONDS = 5.0
_REPORT_SECONDS = 10.0


@dataclasses.dataclass
class Role:
  """An actor and what it runs."""

  name: str
  actor: Any
  result: Any  # Ray's reference.


@dataclasses.dataclass(frozen=True)
class Launch:
  """What to start.

  Attributes:
    config_text: the gin configuration.
    imports: modules that it needs.
    folder: of the run.
    n_workers: worker processes.
    controller: name of the server of a population, or None.
    member: index in it.
  """

  config_text: str
  imports: Sequence[str]
  folder: pathlib.Path
  n_workers: int
  controller: str | None = None
  member: int = 0

  @property
  def server(self) -> str:
    """Name of the learner's server, as the library makes it from the folder."""
    return distributed.uniquify_server_name("learner", str(self.folder.resolve()))


def warnings(n_workers: int) -> list[str]:
  """Returns what in gin's configuration would waste gradients of so many workers."""
  batch = gin_files.bound("run_train.trainer_batch_size", 1)
  staleness = gin_files.bound("run_train.staleness", 1)
  # While a worker computes, each of the others delivers once.
  updates = -(-n_workers // batch)
  if staleness >= updates:
    return []
  return [
    f"about {updates} updates happen while a worker computes one gradient, and run_train.staleness "
    f"is {staleness}: most gradients will be refused; try --gin_bindings "
    f"run_train.staleness={2 * updates}"
  ]


def start_role(
  ray: Any, name: str, function: str, keywords: dict[str, Any], cores: float = 0
) -> Role:
  """Starts an actor that runs a role, and starts it anew whenever it is killed.

  Args:
    ray: the module.
    name: of the actor, and of the server it may make.
    function: "module:function".
    keywords: of the function; they must be picklable without our code.
    cores: that it takes of the cluster.

  Raises:
    UnsupRuleError: there is an actor of that name.
  """
  host = ray.remote(concurrency_groups={"call": courier.CALLS_AT_ONCE})(courier.Host)
  try:
    actor = host.options(
      name=name,
      namespace=courier.NAMESPACE,
      num_cpus=cores,
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
  run = actor.run.options(max_task_retries=-1)
  return Role(name, actor, run.remote(function, pickle.dumps(keywords)))


def start(ray: Any, launch: Launch) -> tuple[Role, list[Role]]:
  """Starts a learner and its workers."""
  common = {
    "config_text": launch.config_text,
    "imports": list(launch.imports),
    "folder": str(launch.folder.resolve()),
    "server": launch.server,
  }
  learner = start_role(
    ray,
    launch.server,
    "unsup_rule.distributed.learner:run_learner",
    {
      **common,
      "n_workers": launch.n_workers,
      "controller": launch.controller,
      "member": launch.member,
    },
  )
  workers = [
    start_role(
      ray,
      f"{launch.server}__worker_{index}",
      "unsup_rule.distributed.worker:run_worker",
      {**common, "worker": index, "stream": launch.member * launch.n_workers + index},
      cores=1,
    )
    for index in range(launch.n_workers)
  ]
  return learner, workers


def train(ray: Any, launch: Launch) -> dict[str, Any]:
  """Runs a learner and its workers to the end.

  Returns:
    What the learner returned: "state" and "step".

  Raises:
    UnsupRuleError: the learner gave up, or no worker is left.
    KeyboardInterrupt, SystemExit: a signal came; all is saved.
  """
  learner, workers = start(ray, launch)
  report = courier.Client(launch.server, _REPORT_SECONDS).report
  with StopRequest() as stop, display.Display(lambda: table.render(report())) as shown:
    (result,) = _watch(ray, [learner], workers, stop, shown)
    _leave(ray, workers)
    stop.raise_if_requested()
  return result


def train_population(ray: Any, launch: Launch, n_members: int) -> list[dict[str, Any]]:
  """Runs a population, each member with an equal share of the workers, to the end.

  Returns:
    What each learner returned.

  Raises:
    UnsupRuleError: a learner gave up, or no worker is left.
    KeyboardInterrupt, SystemExit: a signal came; all is saved.
  """
  controller = distributed.uniquify_server_name("population", str(launch.folder.resolve()))
  shared = {
    "config_text": launch.config_text,
    "imports": list(launch.imports),
    "folder": str(launch.folder.resolve()),
    "server": controller,
  }
  helpers = [
    start_role(ray, controller, "unsup_rule.distributed.population:run_controller", shared),
    start_role(
      ray, f"{controller}__evaluator", "unsup_rule.distributed.evaluator:run_evaluator", shared
    ),
  ]
  learners, workers = [], []
  for member in range(n_members):
    learner, its_workers = start(
      ray,
      dataclasses.replace(
        launch,
        folder=launch.folder / f"member_{member}",
        n_workers=max(launch.n_workers // n_members, 1),
        controller=controller,
        member=member,
      ),
    )
    learners.append(learner)
    workers += its_workers
  report = courier.Client(controller, _REPORT_SECONDS).report
  with StopRequest() as stop, display.Display(lambda: table.render_members(report())) as shown:
    results = _watch(ray, learners, workers, stop, shown, helpers)
    _leave(ray, workers)
    stop.raise_if_requested()
  return results


def _leave(ray: Any, workers: Sequence[Role]) -> None:
  """Lets workers go by themselves, at their next call, all but those in a long computation."""
  ray.wait([worker.result for worker in workers], num_returns=len(workers), timeout=_LEAVE_SECONDS)


def _watch(
  ray: Any,
  learners: Sequence[Role],
  workers: Sequence[Role],
  stop: StopRequest,
  shown: display.Display,
  helpers: Sequence[Role] = (),
) -> list[dict[str, Any]]:
  """Returns the learners' results; raises an error of theirs, or of the last worker's."""
  results: dict[str, dict[str, Any]] = {}
  running, left = list(learners), list(workers)
  asked_at = None
  while running:
    watched = [*running, *left, *helpers]
    done, _ = ray.wait([role.result for role in watched], num_returns=1, timeout=_POLL_SECONDS)
    for role in [role for role in watched if role.result in done]:
      if role in running:
        running.remove(role)
        results[role.name] = _result_of(ray, role)
      elif role in left:
        left.remove(role)
        try:
          _result_of(ray, role)
        except UnsupRuleError as error:
          shown.say(str(error))
          if not left:
            _stop(running, shown)
            raise UnsupRuleError(f"no worker is left, the last one said: {error}") from error
      else:
        _result_of(ray, role)
    if stop.signal_number is not None and asked_at is None:
      asked_at = time.monotonic()
      _stop(running, shown)
    if asked_at is not None and time.monotonic() - asked_at > _STOP_SECONDS:
      raise UnsupRuleError(
        f"the learner did not save within {_STOP_SECONDS:g} s; the run goes on from its last "
        "checkpoint when it is started again"
      )
    shown.refresh()
  return [results[role.name] for role in learners]


def _stop(learners: Sequence[Role], shown: display.Display) -> None:
  """Asks learners to save and end; the call waits for one that is being started anew."""
  for learner in learners:
    try:
      courier.Client(learner.name, _STOP_SECONDS).stop()
    except courier.UnreachableError as error:
      shown.say(str(error))


def _result_of(ray: Any, role: Role) -> Any:
  """Returns what a role returned, or raises its error in one line."""
  try:
    return ray.get(role.result)
  except ray.exceptions.RayTaskError as error:
    cause = error.cause
    if isinstance(cause, UnsupRuleError):
      raise UnsupRuleError(str(cause).split("\n", 1)[0]) from error
    raise UnsupRuleError(f"{type(cause).__name__}: {str(cause).splitlines()[0]}") from error
  except ray.exceptions.RayError as error:
    first = " ".join(str(error).split())[:300]
    raise UnsupRuleError(f"Ray lost a process: {first}") from error
