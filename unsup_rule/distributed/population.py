"""Populations: what gin can set about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
from learned_optimization.population.mutators import (
  fixed_schedule,
  single_worker_explore,
  winner_take_all_genetic,
)

from unsup_rule import compat
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import gin_values
from unsup_rule.meta.heldout import HeldOut
from unsup_rule.meta.options import HeldoutFn, PopulationOptions
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import DatasetSpec, check_disjoint

MUTATORS = (
  fixed_schedule.FixedSchedule,
  single_worker_explore.BranchingSingleMachine,
  winner_take_all_genetic.WinnerTakeAllGenetic,
)
if not compat.IS_HEAD:  # It registers them itself.
  for mutator in MUTATORS:
    gin.external_configurable(mutator, module=mutator.__module__)


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

  def _sampler(self, split: str) -> TaskSampler:
    del split
    return super()._sampler(self.split)


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
    data = dataclasses.replace(DatasetSpec.from_settings(fitness.data), split=fitness.split)
    check_disjoint(gin_values.bound("task_distribution.sources", ()), [dataclasses.asdict(data)])
