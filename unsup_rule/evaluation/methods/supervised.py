"""Supervised training of the base model on the labelled examples of a draw alone."""

import dataclasses
from collections.abc import Iterator, Sequence

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.methods.autoencoders import dense, dense_init
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.tasks.fewshot import Episodes


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class Supervised:
  """Base model and a linear output, cross-entropy, Adam on the whole labelled half at each step.

  Each draw trains a model of its own, from the initial weights of its seed.

  Attributes:
    learning_rate: of Adam.
    steps: steps after which features are measured.
  """

  learning_rate: float = 3e-3
  steps: Sequence[int] = (20, 50, 100)

  label = "supervised"
  about = "the base model trained on the same labelled examples, once a draw"
  source = "Metz et al. 2019"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Trains on labelled examples; `inputs` are not used."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    optimizer = optax.adam(self.learning_rate)

    def logits(params, features):
      return dense(params["output"], features, mlp.nonlinearity)

    def loss(params, x_KxP, labels_K):
      out = logits(params, mlp.features(params["base"], x_KxP))
      return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, labels_K))

    def train(state, x_KxP, labels_K, n_steps):
      def body(_, state):
        gradient = jax.grad(loss)(state[0], x_KxP, labels_K)
        updates, moments = optimizer.update(gradient, state[1], state[0])
        return optax.apply_updates(state[0], updates), moments

      return jax.lax.fori_loop(0, n_steps, body, state)

    @jax.jit
    def advance(states, x_DxExP, labels_DxK, n_steps):
      k = labels_DxK.shape[1]

      def one(draw):
        state, x_ExP, labels_K = draw
        state = train(state, x_ExP[:k], labels_K, n_steps)
        features = mlp.features(state[0]["base"], x_ExP)
        predicted_K = jnp.argmax(logits(state[0], features[k:]), axis=1)
        return state, (features, predicted_K, loss(state[0], x_ExP[:k], labels_K))

      return jax.lax.map(one, (states, x_DxExP, labels_DxK))

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      init_key, output_key = base.seed_keys(setting, index)
      output = dense_init(output_key, (mlp.n_outputs, episodes.n_ways))
      params = {"base": base.forward_only(mlp.init(init_key)), "output": output}
      start = (params, optimizer.init(params))
      states = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(episodes.x_DxExP)), start)
      x_DxExP, labels_DxK = jnp.asarray(episodes.x_DxExP), jnp.asarray(episodes.labels_DxK)
      done = 0
      for step in self.steps:
        states, (features, predicted, losses) = advance(states, x_DxExP, labels_DxK, step - done)
        yield base.Snapshot(
          step, np.asarray(features), np.asarray(predicted), float(jnp.mean(losses))
        )
        done = step

    return fit

  def cost(self, setting: Setting) -> float:
    """A gradient for each step of each draw."""
    return 4.0 * setting.size * self.steps[-1] * setting.draws
