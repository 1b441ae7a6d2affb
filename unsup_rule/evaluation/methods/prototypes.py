"""A prototypical network (Snell et al. 2017), trained on other labelled problems."""

import dataclasses
import math
from collections.abc import Iterator

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unsup_rule.data import load
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.probe import Targets
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.structures import Params
from unsup_rule.tasks.fewshot import Episodes
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import Source


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class Prototypes:
  """The base model trained so that examples lie near the mean embedding of their class.

  It learns on problems of another data set, each with a permutation of its own where the cell
  permutes its inputs, and is applied unchanged.

  Attributes:
    data: name of the data set to learn on; drawn at the cell's resolution.
    split: its split.
    ways: classes of a training problem.
    examples_per_class: labelled examples of a class, and query examples.
    learning_rate: of Adam.
    steps: training problems, one a step.
  """

  data: str = "glyphs"
  split: str = "train"
  ways: int = 10
  examples_per_class: int = 5
  learning_rate: float = 1e-3
  steps: int = 1000

  label = "prototypical network"
  about = "the base model trained on labelled problems of another data set"
  source = "Snell, Swersky and Zemel 2017"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Compiles training on the other data set."""
    sampler = self._sampler(setting, inputs.values_NxP.shape[1])
    mlp = setting.mlp(sampler.n_inputs)
    optimizer = optax.adam(self.learning_rate)

    def loss(params, key):
      task_key, draw_key = jax.random.split(key)
      x, fit, query = sampler.labelled(sampler.sample(task_key), draw_key)
      return problem_loss(mlp, params, x, fit, query, self.ways)

    @jax.jit
    def train(params, key):
      def body(i, state):
        params, moments = state
        gradient = jax.grad(loss)(params, jax.random.fold_in(key, i))
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

      return jax.lax.fori_loop(0, self.steps, body, (params, optimizer.init(params)))[0]

    @jax.jit
    def measure(params, x_DxExP, labels_DxK):
      def one(draw):
        x_ExP, labels_K = draw
        k = len(labels_K)
        features_ExF = mlp.features(params, x_ExP)
        centres_WxF = prototypes(features_ExF[:k], labels_K, n_ways)
        return features_ExF, jnp.argmax(similarity(features_ExF[k:], centres_WxF), axis=1)

      n_ways = labels_DxK.shape[1] // setting.examples_per_class
      return jax.lax.map(one, (x_DxExP, labels_DxK))

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      init_key, train_key = base.seed_keys(setting, index)
      params = train(mlp.init(init_key), train_key)
      features, predicted = measure(params, episodes.x_DxExP, episodes.labels_DxK)
      yield base.Snapshot(self.steps, np.asarray(features), np.asarray(predicted))

    return fit

  def cost(self, setting: Setting) -> float:
    """A gradient a problem."""
    return 6.0 * setting.size * self.steps

  def _sampler(self, setting: Setting, n_inputs: int) -> TaskSampler:
    if self.data == setting.data.name:
      raise UnsupRuleError(
        f"Prototypes.data is {self.data!r}, which the cell tests on; choose another data set"
      )
    dataset = load(self.data, self.split, resolution=math.isqrt(n_inputs))
    if dataset.n_inputs != n_inputs:
      raise UnsupRuleError(
        f"a prototypical network trained on {self.data!r} reads {dataset.n_inputs} inputs, but "
        f"{setting.data.label} has {n_inputs}; choose another Prototypes.data or leave it out"
      )
    return TaskSampler(
      [Source(dataset, (self.ways,))],
      examples_per_class=self.examples_per_class,
      permute=setting.permute,
    )


def prototypes(features_KxF: jax.Array, labels_K: jax.Array, n_ways: int) -> jax.Array:
  """Mean embedding of each class, [W, F]."""
  one_hot_KxW = jax.nn.one_hot(labels_K, n_ways)
  return (one_hot_KxW.T @ features_KxF) / jnp.sum(one_hot_KxW, axis=0)[:, None]


def similarity(features_KxF: jax.Array, centres_WxF: jax.Array) -> jax.Array:
  """Negative squared Euclidean distances, [K, W]."""
  return -jnp.sum(jnp.square(features_KxF[:, None] - centres_WxF[None]), axis=-1)


def problem_loss(
  mlp: MLP, params: Params, x_2KxP: jax.Array, fit: Targets, query: Targets, n_ways: int
) -> jax.Array:
  """Cross-entropy of the query half under a softmax over similarities."""
  features = mlp.features(params, x_2KxP)
  k = len(fit.labels)
  logits_KxW = similarity(features[k:], prototypes(features[:k], fit.labels, n_ways))
  return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_KxW, query.labels))
