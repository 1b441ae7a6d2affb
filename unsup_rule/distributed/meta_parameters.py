"""Theta and the state of its optimizer, updated by the library's `GradientLearner`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.compat import library
from unsup_rule.meta import outer_step, trees
from unsup_rule.meta.settings import Settings


class Update(NamedTuple):
  """One update: how many there were with it, meta-loss, norm of the mean gradient."""

  step: int
  loss: float
  gradient_norm: float


class MetaParameterStore:
  """Holds theta and makes its updates, all but those whose result would not be finite.

  Attributes:
    lopt: the optimizer whose theta this is.
    state: the learner's state after the last update.
    refused: updates that were not made.
    refused_in_a_row: of these, the last ones without a good one between.
  """

  def __init__(self, settings: Settings):
    """Makes theta: the one that a local run with this seed starts from."""
    self.lopt, self._seed = settings.run.lopt, settings.trainer.seed
    self._learner = settings.make_learner()
    self.state = self._initial_state()
    self.refused = self.refused_in_a_row = 0

  @property
  def step(self) -> int:
    """Updates so far."""
    return int(self.state.theta_opt_state.iteration)

  @property
  def theta(self) -> lopt_base.MetaParams:
    """What the run has found so far, see `outer_step.result`."""
    return outer_step.result(self._learner, self.state)

  @property
  def worker_weights(self) -> gradient_learner.WorkerWeights:
    """What workers need of the state."""
    return self._learner.get_state_for_worker(self.state)

  def initial_theta(self) -> lopt_base.MetaParams:
    """The theta that the run started from, made anew."""
    return library.meta_params(self._learner, self._initial_state())

  def restore(self, leaves: Mapping[str, np.ndarray], where: str) -> None:
    """Goes on with a saved state.

    Raises:
      UnsupRuleError: it belongs to another configuration.
    """
    self.state = trees.from_leaves(leaves, self.state, f"outer learner in {where}")

  def use(self, settings: Settings) -> None:
    """Makes further updates as these settings say; theta stays."""
    self._learner = settings.make_learner()

  def update(self, gradients: Sequence[gradient_learner.AggregatedGradient]) -> Update | None:
    """Updates theta with the mean of gradients; None where the result would not be finite."""
    loss = float(np.mean([gradient.mean_loss for gradient in gradients]))
    mean = outer_step.mean([gradient.theta_grads for gradient in gradients])
    key = outer_step.key_of_update(self._seed, self.step)
    state = outer_step.update(self._learner, self.state, mean, loss, key)
    if state is None:
      self.refused += 1
      self.refused_in_a_row += 1
      return None
    self.state, self.refused_in_a_row = state, 0
    return Update(self.step, loss, trees.norm(mean))

  def _initial_state(self) -> gradient_learner.GradientLearnerState:
    return outer_step.initial_learner_state(self.lopt, self._learner, self._seed)
