"""Registers the library's population mutators with gin; 0.0.1 does not do that itself."""

import gin
from learned_optimization.population.mutators import (
  fixed_schedule,
  single_worker_explore,
  winner_take_all_genetic,
)

from unsup_rule import compat

MUTATORS = (
  fixed_schedule.FixedSchedule,
  single_worker_explore.BranchingSingleMachine,
  winner_take_all_genetic.WinnerTakeAllGenetic,
)

if not compat.IS_HEAD:
  for mutator in MUTATORS:
    gin.external_configurable(mutator, module=mutator.__module__)
