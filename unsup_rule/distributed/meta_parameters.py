"""Theta and its optimizer behind the interface of the library's `GradientLearner`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.distributed import library_loops
from unsup_rule.meta import library, outer_step, trees


class Update(NamedTuple):
  """One update: how many there were with it, meta-loss, norm of the mean gradient."""

  step: int
  loss: float
  gradient_norm: float


class ThetaKeeper:
  """Updates theta with the library's learner, and keeps the last state for checkpoints.

  It averages the gradients itself, one by one: the library stacks them, which doubles the memory
  that a batch of them needs.

  Attributes:
    state: the learner's state after the last update whose result was finite.
    refused: updates whose result was not finite, and which were not made.
    refused_in_a_row: of these, the last ones without a good one between.
  """

  def __init__(self, make_learner: Callable[[], Any], seed: int, updated: Callable[[Update], None]):
    """Makes theta.

    Args:
      make_learner: makes the library's learner, as gin describes it at the time.
      seed: initial theta follows from it, the same as in local training, and all updates.
      updated: called after each good update.
    """
    self._make, self._seed, self._updated = make_learner, seed, updated
    self._learner = make_learner()
    self.lopt = library_loops.learned_optimizer(self._learner)
    self.state = outer_step.initial_learner_state(self.lopt, self._learner, seed)
    self.refused = self.refused_in_a_row = 0

  @property
  def step(self) -> int:
    """Updates so far."""
    return int(self.state.theta_opt_state.iteration)

  @property
  def theta(self) -> Any:
    """The current theta."""
    return library.meta_params(self._learner, self.state)

  def initial_theta(self) -> Any:
    """The theta that the run started from, made anew."""
    state = outer_step.initial_learner_state(self.lopt, self._learner, self._seed)
    return library.meta_params(self._learner, state)

  def restored(self, leaves: Mapping[str, np.ndarray], where: str) -> Any:
    """Returns the state of these leaves, and goes on with it.

    Raises:
      UnsupRuleError: they belong to another configuration.
    """
    self.state = trees.from_leaves(leaves, self.state, f"outer learner in {where}")
    return self.state

  def rebuild(self) -> None:
    """Makes the library's learner anew, with gin's present values; theta stays."""
    self._learner = self._make()

  def init(self, unused_key: jax.Array) -> Any:
    """Returns the state; the library's loop asks once."""
    return self.state

  def get_state_for_worker(self, state: Any) -> Any:
    """What workers need of a state."""
    return self._learner.get_state_for_worker(state)

  def get_meta_params(self, state: Any) -> Any:
    """Theta in a state, as HEAD calls it."""
    return library.meta_params(self._learner, state)

  get_lopt_params = get_meta_params  # As 0.0.1 calls it.

  def update(
    self,
    state: Any,
    grads_list: Sequence[Any],
    with_metrics: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[Any, Mapping[str, Any]]:
    """Updates theta with the mean of gradients; leaves it where the result would not be finite."""
    del key  # The loop's own is drawn from numpy's global generator.
    losses = np.asarray([gradient.mean_loss for gradient in grads_list], np.float32)
    gradient = _mean([gradient.theta_grads for gradient in grads_list])
    make: Any = gradient_learner.AggregatedGradient  # A flax dataclass, opaque to type checkers.
    mean = make(
      theta_grads=gradient,
      theta_model_state=_mean([gradient.theta_model_state for gradient in grads_list]),
      mean_loss=losses.mean(),
    )
    new_state, metrics = self._learner.update(
      state, [mean], with_metrics=with_metrics, key=outer_step.key_of_update(self._seed, self.step)
    )
    metrics = {**metrics, "none||best_of_mean_loss": losses.min()}
    if not trees.all_finite(new_state):
      self.refused += 1
      self.refused_in_a_row += 1
      return state, metrics
    self.refused_in_a_row = 0
    self.state = new_state
    self._updated(Update(self.step, float(losses.mean()), trees.norm(gradient)))
    return new_state, metrics


def _mean(gradients: Sequence[Any]) -> Any:
  def mean(*leaves: np.ndarray) -> np.ndarray:
    total = np.zeros(np.shape(leaves[0]), np.float64)
    for leaf in leaves:
      total += leaf
    return (total / len(leaves)).astype(np.asarray(leaves[0]).dtype)

  return jax.tree_util.tree_map(mean, *gradients)
