"""What gin sets about training: the parts of `unsup_rule.meta.settings.Settings`."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence

import gin
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.population.population import Mutate

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta.estimators import MOST_KEPT

# (learned optimizer, theta) -> at least `accuracy` and `standard_error`.
HeldoutFn = Callable[[lopt_base.LearnedOptimizer, lopt_base.MetaParams], Mapping[str, float]]


def measured(
  setting: str, function: HeldoutFn, lopt: lopt_base.LearnedOptimizer, theta: lopt_base.MetaParams
) -> dict[str, float]:
  """What `function`, bound to `trainer.<setting>`, finds of theta.

  Raises:
    UnsupRuleError: it returns no accuracy, or no standard error.
  """
  found = {name: float(value) for name, value in function(lopt, theta).items()}
  if missing := {"accuracy", "standard_error"} - set(found):
    raise UnsupRuleError(
      f"trainer.{setting} returned no '{min(missing)}'; it must return accuracy and standard_error"
    )
  return found


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """What gin binds to `run_train`, with the defaults of the library's function of this name.

  Attributes:
    lopt: the optimizer to meta-train.
    num_steps: outer steps in all, over all sessions.
    num_seconds: limit of time over all sessions; 0 for none.
    num_estimators: estimators whose gradients are averaged in a step.
    stochastic_resample_frequency: outer steps, on average, until an estimator is replaced; 0 for
      never.
    summary_every_n: outer steps between TensorBoard entries other than the loss; 0 for none.
    trainer_batch_size: gradients of workers that make an update.
    staleness: updates that a worker's gradient may be behind.
  """

  lopt: lopt_base.LearnedOptimizer
  num_steps: int = 10000
  num_seconds: float = 0.0
  num_estimators: int = 2
  stochastic_resample_frequency: int = 200
  summary_every_n: int = 10
  trainer_batch_size: int = 1
  staleness: int = 1

  def __post_init__(self):
    _check_positive("run_train", self, "num_estimators", "trainer_batch_size")
    _check_not_negative(
      "run_train",
      self,
      "num_steps",
      "num_seconds",
      "stochastic_resample_frequency",
      "summary_every_n",
      "staleness",
    )


@gin.configurable("trainer", module="unsup_rule")  # pyright: ignore[reportCallIssue]
@dataclasses.dataclass(frozen=True)
class TrainerOptions:
  """Options of the trainer itself; gin's `trainer`.

  Attributes:
    seed: everything random in a run follows from it.
    checkpoint_every_seconds: a kill loses no more than the steps of this time.
    max_consecutive_nonfinite: so many meta-gradients of one estimator in a row that are not finite
      end the training.
    heldout_fn: measures a theta on data that meta-training never sees; called with the initial and
      with the final theta. None measures nothing.
    validation_fn: measures a theta now and then, for the curve and for choices between recipes; on
      data other than that of `heldout_fn`. None measures nothing.
    validation_every_steps: how often.
    max_programs: estimators, one for each architecture and length of a truncation, that a process
      keeps compiled, at 100 to 350 MB each; beyond them the one used longest ago is dropped, and
      read from the cache of compiled programs where it comes up again. One that is compiled counts
      as three. On accelerators those that were compiled ahead stay as well.
    phases: bindings that take force at an outer step and stay, as {step: [binding, ..]}; later ones
      on top of earlier ones. The estimators are then sampled anew; the outer optimizer stays, so
      that binding anything of it is an error.
  """

  seed: int = 0
  checkpoint_every_seconds: float = 30.0
  max_consecutive_nonfinite: int = 20
  heldout_fn: HeldoutFn | None = None
  validation_fn: HeldoutFn | None = None
  validation_every_steps: int = 100
  max_programs: int = MOST_KEPT
  phases: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _check_positive(
      "trainer",
      self,
      "checkpoint_every_seconds",
      "max_consecutive_nonfinite",
      "validation_every_steps",
      "max_programs",
    )
    check_seed("trainer.seed", self.seed)
    for name in ("heldout_fn", "validation_fn"):
      _check_made(f"trainer.{name}", getattr(self, name))
    for step, bindings in self.phases.items():
      if not isinstance(step, int) or step < 1 or isinstance(bindings, str):
        raise UnsupRuleError(
          f"trainer.phases has {step!r}: {bindings!r}; give outer steps from 1 up, each with a "
          'list of bindings, such as {500: ["task_distribution.widths = (256,)"]}'
        )


@gin.configurable("distributed", module="unsup_rule")  # pyright: ignore[reportCallIssue]
@dataclasses.dataclass(frozen=True)
class DistributedOptions:
  """Options of `unsup-rule launch`; gin's `distributed`.

  Attributes:
    checkpoint_every_updates: a learner that is killed loses no more than so many updates, and no
      more than those of `trainer.checkpoint_every_seconds`.
    call_deadline_seconds: a worker that gets no answer from the learner for so long gives up. A
      killed learner is back after about half a minute.
    gradient_deadline_seconds: a learner that gets no gradient from any worker for so long saves
      and gives up. It covers the workers' first compilation.
    buffer_batches: gradients kept for later updates, in batches of `run_train.trainer_batch_size`,
      and at least 64; more are refused. It bounds the learner's memory.
  """

  checkpoint_every_updates: int = 50
  call_deadline_seconds: float = 180.0
  gradient_deadline_seconds: float = 900.0
  buffer_batches: int = 2

  def __post_init__(self):
    _check_positive("distributed", self, *(field.name for field in dataclasses.fields(self)))


@gin.configurable("population", module="unsup_rule")  # pyright: ignore[reportCallIssue]
@dataclasses.dataclass(frozen=True)
class PopulationOptions:
  """Options of a population; gin's `population`.

  Attributes:
    members: the bindings that each member starts with; () for no population.
    mutator: the library's, such as `@WinnerTakeAllGenetic()`; decides who goes on with what.
    fitness_fn: measures theta; its "accuracy" is maximised. `MetaValidation` by default.
    evaluate_every_updates: how often; the steps of a mutator should be multiples of it.
  """

  members: Sequence[Sequence[str]] = ()
  mutator: Mutate | None = None
  fitness_fn: HeldoutFn | None = None
  evaluate_every_updates: int = 50

  def check(self) -> None:
    """Refuses a population that cannot work.

    Raises:
      UnsupRuleError: no mutator, or a bad interval or member.
    """
    if self.mutator is None:
      raise UnsupRuleError(
        "population.mutator is not bound; name one, such as @WinnerTakeAllGenetic()"
      )
    _check_made("population.fitness_fn", self.fitness_fn)
    _check_positive("population", self, "evaluate_every_updates")
    for member in self.members:
      if isinstance(member, str) or not all(b.count("=") == 1 for b in member):
        raise UnsupRuleError(
          f"population.members has {member!r}; give each member a list of bindings, such as "
          '["Adam.learning_rate = 1e-3"]'
        )


def check_seed(name: str, seed: int) -> None:
  """Refuses what jax has no random key for.

  Raises:
    UnsupRuleError: it is larger than 64 bits.
  """
  if not -(2**63) <= seed < 2**63:
    raise UnsupRuleError(f"{name} is {seed}; give a number of at most 18 digits")


def _check_positive(section: str, options: object, *names: str) -> None:
  for name in names:
    value = getattr(options, name)
    if value <= 0:
      raise UnsupRuleError(f"{section}.{name} is {value}; give a positive number")


def _check_not_negative(section: str, options: object, *names: str) -> None:
  for name in names:
    value = getattr(options, name)
    if value < 0:
      raise UnsupRuleError(f"{section}.{name} is {value}; give 0 or more")


def _check_made(name: str, function: HeldoutFn | None) -> None:
  """Refuses a class, whose call would make an object and measure nothing."""
  if inspect.isclass(function):
    raise UnsupRuleError(
      f"{name} is the class {function.__name__}; write @{function.__name__}(), with parentheses"
    )
