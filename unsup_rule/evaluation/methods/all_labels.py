"""Supervised training of the base model on all labels of the train split: a reference."""

import dataclasses

import gin
import jax
import jax.numpy as jnp
import optax

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.methods.autoencoders import dense, dense_init
from unsup_rule.evaluation.setting import Inputs, Setting


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class AllLabels:
  """Base model and a linear output, cross-entropy over the classes of the train split, Adam.

  Attributes:
    learning_rate: of Adam.
    steps: batches of the setting's size.
  """

  learning_rate: float = 1e-3
  steps: int = 3000

  label = "all train labels"
  about = "the base model trained on every label of the train split; features = its embedding"
  source = "-"
  reference = True

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Trains on labelled batches of the train split."""
    dataset = setting.data.load(setting.data.train_split)
    values_NxP = jnp.asarray(Inputs.of(dataset).values_NxP)
    labels_N = jnp.asarray(dataset.labels)
    mlp = setting.mlp(values_NxP.shape[1])
    optimizer = optax.adam(self.learning_rate)

    def init(key, permutation):
      base_key, output_key = jax.random.split(key)
      params = {
        "base": base.forward_only(mlp.init(base_key)),
        "output": dense_init(output_key, (mlp.n_outputs, dataset.n_classes)),
      }
      return params, optimizer.init(params), permutation

    def loss(params, x_BxP, labels_B):
      out_BxW = dense(params["output"], mlp.features(params["base"], x_BxP), mlp.nonlinearity)
      return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out_BxW, labels_B))

    def step(state, key, unused_x_BxP):
      params, moments, permutation = state
      rows_B = jax.random.randint(key, (setting.batch_size,), 0, len(labels_N))
      x_BxP = values_NxP[rows_B].astype(jnp.float32)[:, permutation] * inputs.scale
      updates, moments = optimizer.update(
        jax.grad(loss)(params, x_BxP, labels_N[rows_B]), moments, params
      )
      return optax.apply_updates(params, updates), moments, permutation

    def embed(state, x_ExP):
      return mlp.features(state[0]["base"], x_ExP)

    trained = dataclasses.replace(setting, steps=(self.steps,))
    return base.training(base.Learner(init, step, embed), trained, inputs)

  def cost(self, setting: Setting) -> float:
    """A gradient a step."""
    return 2.0 * setting.size * self.steps
