"""The library's asynchronous trainer, with its parts exchangeable, behind one interface.

`run_as_learner` and `run_as_worker` start the library's `run_train` in a role and hand over what it
read from gin; `train_learner` and `train_worker` are the library's own loops, in which other parts
than the library's serve gradients, keep checkpoints, write events and draw random numbers.
"""

import contextlib
import itertools
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import haiku as hk
import jax
from learned_optimization import outer_train
from learned_optimization.outer_trainers import gradient_learner as library_learner

from unsup_rule import compat
from unsup_rule.errors import UnsupRuleError

_TRAIN_LEARNER = outer_train.train_learner
_TRAIN_WORKER = outer_train.train_worker


def run_as_learner(train: Callable[..., None]) -> None:
  """Has the library's `run_train` call `train` where it would call its `train_learner`.

  Args:
    train: called with the keywords `make_learner`, a function that returns a new
      `GradientLearner` as gin describes it at the time, `summary_every_n`, `num_steps`,
      `num_seconds`, `trainer_batch_size` and `staleness`.

  Raises:
    UnsupRuleError: gin asks for synchronous training.
  """

  def call(
    *,
    outer_learner: Any = None,
    outer_learner_fn: Callable[[], Any] | None = None,
    learner_mode: str = "async",
    **settings: Any,
  ) -> None:
    if learner_mode != "async":
      raise UnsupRuleError(
        f"run_train.learner_mode is '{learner_mode}', but launch trains asynchronously; remove it"
      )
    for name in ("train_log_dir", "num_workers", "population", "population_worker_id"):
      settings.pop(name, None)
    train(make_learner=outer_learner_fn or type(outer_learner), **settings)

  _run_train(call, "train_learner", is_trainer=True, is_worker=False)


def run_as_worker(train: Callable[..., None]) -> None:
  """Has the library's `run_train` call `train` where it would call its `train_worker`.

  Args:
    train: called with the keywords `lopt`, `num_estimators`, `summary_every_n`,
      `stochastic_resample_frequency` and `sample_estimators` (of the library's
      `build_gradient_estimators`).
  """

  def call(
    *,
    sample_estimators_fn: Callable[..., Any] | None = None,
    run_num_estimators_per_gradient: int | None = None,
    **settings: Any,
  ) -> None:
    if run_num_estimators_per_gradient is not None:
      raise UnsupRuleError(
        "run_train.run_num_estimators_per_gradient is not supported: a worker uses all "
        "run_train.num_estimators; remove the binding"
      )
    for name in ("train_log_dir", "worker_id"):
      settings.pop(name, None)
    sample = sample_estimators_fn or outer_train.build_gradient_estimators
    train(sample_estimators=sample, **settings)

  _run_train(call, "train_worker", is_trainer=False, is_worker=True)


def train_learner(
  learner: Any,
  make_server: Callable[..., Any],
  run_files: Any,
  population: Any = None,
  member: int = 0,
  **settings: Any,
) -> None:
  """Runs the library's loop of the learner.

  Args:
    learner: what holds theta, with the interface of the library's `GradientLearner`. Its
      `rebuild()` is called when a population has changed gin's values.
    make_server: makes what the loop takes for its `distributed.AsyncLearner`, from the keywords of
      that class.
    run_files: stands for the library's `checkpoints` module and for its event writer.
    population: the controller or a client of it, or None.
    member: index in the population.
    **settings: `summary_every_n`, `num_steps` and so on.
  """
  parse = outer_train._parse_outer_cfg

  def parse_and_rebuild(bindings: Sequence[str]) -> None:
    parse(bindings)
    learner.rebuild()

  given = {"outer_learner_fn": lambda: learner} if compat.IS_HEAD else {"outer_learner": learner}
  with _replaced(
    distributed=types.SimpleNamespace(AsyncLearner=make_server),
    checkpoints=run_files,
    summary=_Overlay(outer_train.summary, JaxboardWriter=lambda unused_folder: run_files),
    # The loop itself ends at the last update. Its count of rounds would end it early, where a
    # member of a population went back to an earlier update.
    tqdm=types.SimpleNamespace(trange=lambda unused_number: itertools.count()),
    _parse_outer_cfg=parse_and_rebuild,
  ):
    _TRAIN_LEARNER(
      train_log_dir="",
      population=population,
      population_worker_id=member,
      **given,
      **settings,
    )


def train_worker(
  client: Any, key: jax.Array, worker: int, sample_estimators: Callable[..., Any], **settings: Any
) -> None:
  """Runs the library's loop of a worker, without end.

  Args:
    client: stands for the library's `DistributedWorker`.
    key: all random choices follow from it, but for those of numpy's global generator: whether to
      sample an estimator anew.
    worker: index of the worker.
    sample_estimators: stands for the library's `build_gradient_estimators`.
    **settings: `lopt`, `num_estimators`, `summary_every_n`, `stochastic_resample_frequency`.
  """

  def make_client(*unused_names: Any, **unused_options: Any) -> Any:
    return client

  given = {"sample_estimators_fn": sample_estimators} if compat.IS_HEAD else {}
  with _replaced(
    # The same class by its name in 0.0.1 and in HEAD.
    distributed=types.SimpleNamespace(AsyncWorker=make_client, DistributedWorker=make_client),
    hk=types.SimpleNamespace(PRNGSequence=lambda unused_key: hk.PRNGSequence(key)),
    build_gradient_estimators=sample_estimators,
  ):
    _TRAIN_WORKER(train_log_dir="", worker_id=worker, **given, **settings)


def gathered(
  steps: Sequence[int], gradients: Sequence[Any], n_waiting: int
) -> tuple[Sequence[int], Sequence[Any]] | tuple[Sequence[int], Sequence[Any], int]:
  """Returns what the loop of the learner expects of `gather_grads`."""
  return (steps, gradients, n_waiting) if compat.IS_HEAD else (steps, gradients)


def learned_optimizer(learner: library_learner.GradientLearner) -> Any:
  """The optimizer whose theta `learner` initialises."""
  return getattr(learner, "_meta_init" if compat.IS_HEAD else "_lopt")


class _Overlay:
  """A module with some names replaced."""

  def __init__(self, module: types.ModuleType, **replaced: Any):
    self.__dict__.update(replaced)
    self._module = module

  def __getattr__(self, name: str) -> Any:
    return getattr(self._module, name)


def _run_train(call: Callable[..., None], loop: str, **roles: bool) -> None:
  # run_train writes its own config.gin, in place: not where a crash could leave half of one.
  with tempfile.TemporaryDirectory() as elsewhere, _replaced(**{loop: call}):
    options: dict[str, Any] = {"population_root_dir": None, **roles}
    outer_train.run_train(train_log_dir=elsewhere, **options)


@contextlib.contextmanager
def _replaced(**names: Any) -> Iterator[None]:
  """Replaces names of the library's module within it."""
  before = {name: getattr(outer_train, name) for name in names}
  for name, value in names.items():
    setattr(outer_train, name, value)
  try:
    yield
  finally:
    for name, value in before.items():
      setattr(outer_train, name, value)
