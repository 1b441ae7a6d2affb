"""The evaluation worker of a population: measures the fitness of its members' thetas."""

import dataclasses
import time

from unsup_rule.distributed import actors, process
from unsup_rule.distributed.controller import Controller
from unsup_rule.distributed.meta_parameters import MetaParameterStore
from unsup_rule.distributed.population import fitness_of
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint

_IDLE_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class EvaluatorRole(process.RunRole):
  """Evaluates what members submit, until the process is ended.

  Attributes:
    controller: name of its actor.
  """

  controller: str

  def run(self, serve: actors.Serve) -> None:
    """Evaluates."""
    del serve
    found = self.set_up("evaluator")
    fitness_fn, store = fitness_of(found.population), MetaParameterStore(found)
    controller = actors.Remote[Controller](self.controller)
    while True:
      evaluation = controller.call(Controller.next_evaluation)
      if evaluation is None:
        time.sleep(_IDLE_SECONDS)
        continue
      try:
        store.restore(checkpoint.read_state(evaluation.path)["learner"], evaluation.path)
      except UnsupRuleError as error:
        # Its learner has moved on; a newer one is coming.
        print(f"evaluator: {error}", flush=True)
        time.sleep(_IDLE_SECONDS)
        continue
      fitness = float(fitness_fn(store.lopt, store.theta)["accuracy"])
      print(
        f"evaluator: member {evaluation.member}, update {evaluation.step}: {fitness:.4f}",
        flush=True,
      )
      controller.call(Controller.evaluated, evaluation, fitness)
