"""The base model trained by a hand-made local rule."""

import dataclasses

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.plugin.local import LocalRule


@dataclasses.dataclass(frozen=True)
class LocalLearning:
  """Applies a local rule to every batch, as the learned rule is applied.

  Attributes:
    rule: of `unsup_rule.plugin.local`, or one like them.
  """

  rule: LocalRule

  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return self.rule.label

  @property
  def about(self) -> str:
    """Half a sentence for the report."""
    return f"hand-made local rule on the base model; a synapse knows {self.rule.local_in}"

  @property
  def source(self) -> str:
    """That of the rule."""
    return self.rule.source

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Applies the rule to every batch."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])

    def init(key, unused_permutation):
      return self.rule.init(mlp.init(key), num_steps=setting.steps[-1], key=key)

    def step(state, key, x_BxP):
      activations = mlp.apply(self.rule.get_params(state), x_BxP)
      return self.rule.update(state, model_state=activations, key=key)

    def embed(state, x_ExP):
      return mlp.features(self.rule.get_params(state), x_ExP)

    return base.training(base.Learner(init, step, embed), setting, inputs)

  def cost(self, setting: Setting) -> float:
    """About a gradient."""
    return 3.0 * setting.size * setting.steps[-1]
