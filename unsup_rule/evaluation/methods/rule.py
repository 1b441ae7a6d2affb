"""The rule itself, and its base model before any training."""

import dataclasses

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.plugin.rule import RuleOptimizer
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.theta import Sizes, Theta

_SHOWN_UNITS = 32  # whose receptive fields are kept


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
  """Trains the base model with the unsupervised rule.

  Attributes:
    theta: parameters of the rule.
    sizes: their sizes.
    schedule: how its changes are applied.
  """

  theta: Theta
  sizes: Sizes
  schedule: InnerSchedule

  label = "the rule"
  about = "the learned unsupervised update, no labels"
  source = "Metz et al. 2019"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Applies the rule to every batch."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    optimizer = RuleOptimizer(self.sizes, self.theta, self.schedule)

    def init(key, unused_permutation):
      return optimizer.init(mlp.init(key))

    def step(state, unused_key, x_BxP):
      return optimizer.update(state, model_state=mlp.apply(state.params, x_BxP))

    def features(state, x_ExP):
      return mlp.features(state.params, x_ExP)

    def inside(state, x_ExP):
      # What figures show of one model: bottom weights [P, units] and the embedding [E, F].
      weights = state.params.layer(1).w[:, :_SHOWN_UNITS]
      return {"weights": weights, "embedding": features(state, x_ExP)}

    return base.training(base.Learner(init, step, features, inside=inside), setting, inputs)

  def cost(self, setting: Setting) -> float:
    """About ten times a gradient."""
    return 10.0 * setting.steps[-1]


@dataclasses.dataclass(frozen=True)
class Untrained:
  """The base model as drawn: the same weights that the rule starts from."""

  label = "random initialisation"
  about = "the untrained base model with a trained probe"
  source = "Metz et al. 2019"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Measures step 0 alone."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    still = dataclasses.replace(setting, steps=(0,))

    def init(key, unused_permutation):
      return mlp.init(key)

    return base.training(
      base.Learner(init, lambda params, *unused: params, mlp.features), still, inputs
    )

  def cost(self, setting: Setting) -> float:
    """Nothing but probes."""
    return 0.0
