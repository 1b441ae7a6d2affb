"""Any optimizer of learned_optimization, hand-made or learned, training the same Task."""

import dataclasses

import jax
import jax.numpy as jnp
from learned_optimization.optimizers.base import Optimizer

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.plugin.task import MLPTask
from unsup_rule.probe import RidgeProbe
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import Source


@dataclasses.dataclass(frozen=True)
class LibraryOptimizer:
  """Minimises the probe's loss by its gradient: it reads labels of the whole train split.

  It shows what features of this architecture can reach, not what can be had without labels.

  Attributes:
    name: for people.
    optimizer: of the library.
  """

  name: str
  optimizer: Optimizer

  about = "minimises the probe's loss with labels of the whole train split"
  source = "Metz et al. 2022, learned_optimization"
  reference = True

  @property
  def label(self) -> str:
    """For people."""
    return f"{self.name}, all train labels"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Trains on labelled draws of the train split."""
    sampler = TaskSampler(
      [Source(setting.data.load(setting.data.train_split))],
      batch_size=setting.batch_size,
      examples_per_class=setting.examples_per_class,
      permute=False,
    )
    mlp = setting.mlp(sampler.n_inputs)

    def init(key, permutation):
      # All classes, in the order of the labels that draws have; the permutation is the seed's.
      classes = jnp.arange(sampler.max_ways, dtype=jnp.int32)
      drawn = sampler.sample(key)
      task_params = dataclasses.replace(drawn, permutation=permutation, classes=classes)
      return self.optimizer.init(mlp.init(key), num_steps=setting.steps[-1], key=key), task_params

    def step(state, key, unused_x_BxP):
      optimizer_state, task_params = state
      loss_key, update_key = jax.random.split(key)
      task = MLPTask(mlp, sampler, task_params, RidgeProbe(), self.name)
      params = self.optimizer.get_params(optimizer_state)
      loss, gradient = jax.value_and_grad(task.loss)(params, loss_key)
      optimizer_state = self.optimizer.update(optimizer_state, gradient, loss=loss, key=update_key)
      return optimizer_state, task_params

    def embed(state, x_ExP):
      return mlp.features(self.optimizer.get_params(state[0]), x_ExP)

    return base.training(base.Learner(init, step, embed), setting, inputs)

  def cost(self, setting: Setting) -> float:
    """A gradient through the probe a step."""
    return 6.0 * setting.size * setting.steps[-1]
