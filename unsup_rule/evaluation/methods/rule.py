"""The rule itself, and its base model before any training."""

import dataclasses
from typing import Any

import jax

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.mlp import MLP
from unsup_rule.rule.learned_optimizer import RuleOptimizer
from unsup_rule.rule.sizes import Sizes, Theta

_SHOWN_UNITS = 32  # whose receptive fields are kept


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
  """Trains the base model with the unsupervised rule.

  Attributes:
    theta: parameters of the rule.
    sizes: their sizes.
    learning_rate: of the inner step.
  """

  theta: Theta
  sizes: Sizes
  learning_rate: float

  label = "the rule"
  about = "the learned unsupervised update, no labels"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Applies the rule to every batch."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    optimizer = RuleOptimizer(self.sizes, self.theta, self.learning_rate)

    def step(params, unused_key, x_BxP):
      state = optimizer.init(params)
      return optimizer.update(state, model_state=mlp.apply(params, x_BxP)).params

    return base.training(
      base.Learner(_init(mlp), step, mlp.features, inside=_inside(mlp)), setting, inputs
    )

  def cost(self, setting: Setting) -> float:
    """About ten times a gradient."""
    return 10.0 * setting.steps[-1]


@dataclasses.dataclass(frozen=True)
class Untrained:
  """The base model as drawn: the same weights that the rule starts from."""

  label = "random initialisation"
  about = "the untrained base model with a trained read-out"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Measures step 0 alone."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    still = dataclasses.replace(setting, steps=(0,))
    return base.training(
      base.Learner(_init(mlp), lambda params, *unused: params, mlp.features), still, inputs
    )

  def cost(self, setting: Setting) -> float:
    """Nothing but read-outs."""
    return 0.0


def _init(mlp: MLP):
  return lambda key, unused_permutation: mlp.init(key)


def _inside(mlp: MLP):
  """What figures show of one model: bottom weights [P, units] and the embedding [E, F]."""

  def inside(params: Any, x_ExP: jax.Array) -> dict[str, jax.Array]:
    return {
      "weights": params["layers_0"]["w"][0][:, :_SHOWN_UNITS],
      "embedding": mlp.features(params, x_ExP),
    }

  return inside
