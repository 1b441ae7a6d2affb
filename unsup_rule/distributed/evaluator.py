"""The evaluation worker of a population: measures the fitness of its members' thetas."""

import time
from collections.abc import Sequence

from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.distributed import courier, logs
from unsup_rule.distributed.meta_parameters import ThetaKeeper
from unsup_rule.distributed.population import PopulationOptions, fitness_of
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import compilation
from unsup_rule.meta import checkpoint, gin_files
from unsup_rule.meta.options import TrainerOptions

_IDLE_SECONDS = 0.5


def run_evaluator(config_text: str, imports: Sequence[str], folder: str, server: str) -> None:
  """Evaluates what members submit, until the process is ended."""
  logs.redirect(folder, "evaluator")
  compilation.cache_on_disk()
  gin_files.parse_text(config_text, imports)
  fitness_fn = fitness_of(PopulationOptions())
  keeper = ThetaKeeper(
    # Gin has what it needs.
    lambda: gradient_learner.GradientLearner(),  # pyright: ignore[reportCallIssue]
    TrainerOptions().seed,
    lambda unused_update: None,
  )
  client = courier.Client(server)
  while True:
    found = client.next_evaluation()
    if found is None:
      time.sleep(_IDLE_SECONDS)
      continue
    member, generation, step, path = found
    try:
      keeper.restored(checkpoint.read_state(path)["learner"], path)
    except UnsupRuleError as error:
      # Its learner has moved on; a newer one is coming.
      print(f"evaluator: {error}", flush=True)
      time.sleep(_IDLE_SECONDS)
      continue
    fitness = float(fitness_fn(keeper.lopt, keeper.theta)["accuracy"])
    print(f"evaluator: member {member}, update {step}: {fitness:.4f}", flush=True)
    client.evaluated(member, generation, step, path, fitness)
