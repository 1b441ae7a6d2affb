"""All settings of a run: one frozen tree, read from gin once, at the entrance of a process.

`gin_files.parse` fills gin's configuration, `read` turns it into `Settings`, and all that comes
after takes its settings as arguments. A population's new values are new settings: `changed`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import gin
import jax
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.compat import library
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import estimators, gin_files, gin_values
from unsup_rule.meta.estimators import values_of
from unsup_rule.meta.options import (
  DistributedOptions,
  PopulationOptions,
  RunSettings,
  TrainerOptions,
)

# (learned optimizer, key, number of estimators) -> that many gradient estimators.
SampleEstimators = Callable[
  [lopt_base.LearnedOptimizer, jax.Array, int], Sequence[gradient_learner.GradientEstimator]
]


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a training run needs to know.

  Attributes:
    run: gin's `run_train`.
    make_learner: makes the library's `GradientLearner`, which holds theta and updates it.
    sample_estimators: makes gradient estimators with the library's `build_gradient_estimators`.
    trainer: gin's `trainer`.
    distributed: gin's `distributed`.
    population: gin's `population`.
    config_text: the gin configuration that all this was read from, for `config.gin`.
    imports: modules that another process must import to read that text.
  """

  run: RunSettings
  make_learner: Callable[[], gradient_learner.GradientLearner]
  sample_estimators: SampleEstimators
  trainer: TrainerOptions = dataclasses.field(default_factory=TrainerOptions)
  distributed: DistributedOptions = dataclasses.field(default_factory=DistributedOptions)
  population: PopulationOptions = dataclasses.field(default_factory=PopulationOptions)
  config_text: str = ""
  imports: Sequence[str] = ()


def read(config_text: str, imports: Sequence[str] = ()) -> Settings:
  """Returns what gin's present configuration says; `gin_files.parse` comes first.

  Args:
    config_text: that configuration, as `gin_files.parse` returned it.
    imports: the modules it was given.

  Raises:
    UnsupRuleError: a value is missing, or asks for what is not supported.
  """
  with gin_files.naming_missing_values():
    bound = gin.get_bindings("run_train")
    if "lopt" not in bound:
      raise UnsupRuleError(
        "run_train.lopt is not bound; name the optimizer to meta-train in the gin file, for "
        "instance run_train.lopt = @UnsupervisedRule()"
      )
    _refuse_unsupported(bound)
    names = [field.name for field in dataclasses.fields(RunSettings)]
    run = RunSettings(**{name: bound[name] for name in names if name in bound})
    trainer = TrainerOptions()
    _refuse_phases_of_the_learner(trainer)
    return Settings(
      run,
      functools.partial(_make_learner, run.lopt),
      functools.partial(_sample_estimators, trainer.max_programs),
      trainer,
      DistributedOptions(),
      PopulationOptions(),
      config_text,
      tuple(imports),
    )


def changed(settings: Settings, bindings: Sequence[str]) -> Settings:
  """Returns `settings` with other values for some gin parameters, for this whole process.

  Args:
    settings: from `read`.
    bindings: such as "Adam.learning_rate = 1e-3".

  Raises:
    UnsupRuleError: a binding that gin does not understand.
  """
  gin_files.bind(bindings)
  new = read(settings.config_text, settings.imports)
  if values_of(new.run.lopt) != values_of(settings.run.lopt):
    return new
  # Programs are compiled for the object; another one like it would have them compiled again.
  lopt = settings.run.lopt
  return dataclasses.replace(
    new,
    run=dataclasses.replace(new.run, lopt=lopt),
    make_learner=functools.partial(_make_learner, lopt),
  )


def _refuse_unsupported(bound: dict[str, object]) -> None:
  if bound.get("run_num_estimators_per_gradient") is not None:
    raise UnsupRuleError(
      "run_train.run_num_estimators_per_gradient is not supported: every step uses all "
      "run_train.num_estimators; remove the binding"
    )
  if bound.get("learner_mode", "async") != "async":
    raise UnsupRuleError(
      f"run_train.learner_mode is '{bound['learner_mode']}', but launch trains asynchronously; "
      "remove it"
    )
  for role in ("is_trainer", "is_worker"):
    if not bound.get(role, True):
      raise UnsupRuleError(
        f"run_train.{role} is False, but train does both in one process; remove it"
      )


def _refuse_phases_of_the_learner(trainer: TrainerOptions) -> None:
  """The learner is made once, so that a later phase cannot change it."""
  learner = gin.get_bindings("GradientLearner", resolve_references=False)
  made_once = {"GradientLearner"} | gin_values.made_of(learner.get("theta_opt"))
  for step, bindings in trainer.phases.items():
    for binding in bindings:
      parameter = binding.partition("=")[0].strip()
      configurable = parameter.rpartition("/")[2].rpartition(".")[0].rpartition(".")[2]
      if (configurable or f"%{parameter}") in made_once:
        raise UnsupRuleError(
          f"trainer.phases binds {parameter} at step {step}, but the outer optimizer is made once; "
          "bind it outside the phases"
        )


def _make_learner(lopt: lopt_base.LearnedOptimizer) -> gradient_learner.GradientLearner:
  with gin_files.naming_missing_values():
    return library.make_learner(lopt)


def _sample_estimators(
  max_programs: int, lopt: lopt_base.LearnedOptimizer, key: jax.Array, number: int
) -> Sequence[gradient_learner.GradientEstimator]:
  estimators.keep(max_programs)
  with gin_files.naming_missing_values():
    return library.sample_estimators(lopt, key, number)
