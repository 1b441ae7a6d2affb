"""Self-supervision of the base model without knowledge of what inputs mean: SCARF and VICReg.

Views of an example come of corruption that is the same for pixels, words and measurements: each
input is, by a coin, replaced by that of another example of the batch.

Shape legend: B examples, P inputs, F features, H values of the head.
"""

import dataclasses

import gin
import jax
import jax.numpy as jnp
import optax

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.methods.autoencoders import corrupted, dense, dense_init
from unsup_rule.evaluation.setting import Inputs, Setting


@dataclasses.dataclass(frozen=True)
class _TwoViews:
  """Base model and a head of two layers, trained on pairs of views of each example; Adam.

  Attributes:
    learning_rate: of Adam.
    corruption: share of inputs that are replaced.
    head: units of the head's layers.
  """

  learning_rate: float = 1e-3
  corruption: float = 0.5
  head: int = 128

  reference = False

  def views(self, key: jax.Array, x_BxP: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two views of a batch."""
    raise NotImplementedError

  def loss(self, first_BxH: jax.Array, second_BxH: jax.Array) -> jax.Array:
    """Of the head's values of both views, a scalar."""
    raise NotImplementedError

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Trains base model and head."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    optimizer = optax.adam(self.learning_rate)

    def init(key, unused_permutation):
      base_key, head_key = jax.random.split(key)
      head = dense_init(head_key, (mlp.n_outputs, self.head, self.head))
      params = {"base": base.forward_only(mlp.init(base_key)), "head": head}
      return params, optimizer.init(params)

    def loss(params, key, x_BxP):
      heads = (
        dense(params["head"], mlp.features(params["base"], view_BxP), mlp.nonlinearity)
        for view_BxP in self.views(key, x_BxP)
      )
      return self.loss(*heads)

    def step(state, key, x_BxP):
      params, moments = state
      updates, moments = optimizer.update(jax.grad(loss)(params, key, x_BxP), moments, params)
      return optax.apply_updates(params, updates), moments

    def embed(state, x_ExP):
      return mlp.features(state[0]["base"], x_ExP)

    return base.training(base.Learner(init, step, embed), setting, inputs)

  def cost(self, setting: Setting) -> float:
    """Two views a step."""
    return 6.0 * setting.size * setting.steps[-1]


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class SCARF(_TwoViews):
  """Bahri et al. 2022: an example and its corrupted view are each other's nearest of the batch.

  Attributes:
    temperature: of the contrastive loss (InfoNCE).
  """

  temperature: float = 1.0

  label = "SCARF"
  about = "contrast of examples and views with inputs of other examples mixed in, on the base model"
  source = "Bahri, Jiang, Tay and Metzler 2022"

  def views(self, key: jax.Array, x_BxP: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The batch, and one corrupted view of it."""
    return x_BxP, corrupted(key, x_BxP, self.corruption)

  def loss(self, first_BxH: jax.Array, second_BxH: jax.Array) -> jax.Array:
    """InfoNCE."""
    return info_nce(first_BxH, second_BxH, self.temperature)


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class VICReg(_TwoViews):
  """Bardes, Ponce and LeCun 2022: views agree, values vary, and no two of them vary together.

  Attributes:
    noise: standard deviation of normal noise on each view, in units of each input's own.
    invariance: weight of the squared difference of views.
    variance: weight of the shortfall of each value's standard deviation from 1.
    covariance: weight of squared covariances.
  """

  corruption: float = 0.3
  noise: float = 0.1
  invariance: float = 25.0
  variance: float = 25.0
  covariance: float = 1.0

  label = "VICReg"
  about = "agreement of two corrupted, noisy views with decorrelated values, on the base model"
  source = "Bardes, Ponce and LeCun 2022"

  def views(self, key: jax.Array, x_BxP: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two corrupted, noisy views."""

    def view(key: jax.Array) -> jax.Array:
      mask_key, noise_key = jax.random.split(key)
      noise_BxP = self.noise * jnp.std(x_BxP, axis=0) * jax.random.normal(noise_key, x_BxP.shape)
      return corrupted(mask_key, x_BxP, self.corruption) + noise_BxP

    first, second = jax.random.split(key)
    return view(first), view(second)

  def loss(self, first_BxH: jax.Array, second_BxH: jax.Array) -> jax.Array:
    """Invariance, variance and covariance."""
    apart = jnp.mean(jnp.square(first_BxH - second_BxH))
    terms = [spread_and_covariance(z_BxH) for z_BxH in (first_BxH, second_BxH)]
    short, together = (sum(values) for values in zip(*terms, strict=True))
    return self.invariance * apart + self.variance * short / 2 + self.covariance * together


def info_nce(first_BxH: jax.Array, second_BxH: jax.Array, temperature: float) -> jax.Array:
  """Cross-entropy of finding an example's second view among all, by cosine; both ways, in mean."""
  units = [
    z_BxH / (jnp.linalg.norm(z_BxH, axis=1, keepdims=True) + 1e-8)
    for z_BxH in (first_BxH, second_BxH)
  ]
  logits_BxB = units[0] @ units[1].T / temperature
  own_B = jnp.arange(len(logits_BxB))
  both = [
    optax.softmax_cross_entropy_with_integer_labels(logits, own_B)
    for logits in (logits_BxB, logits_BxB.T)
  ]
  return (jnp.mean(both[0]) + jnp.mean(both[1])) / 2


def spread_and_covariance(z_BxH: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean shortfall of standard deviations from 1, and sum of squared covariances over H."""
  b, h = z_BxH.shape
  centred_BxH = z_BxH - jnp.mean(z_BxH, axis=0)
  covariance_HxH = centred_BxH.T @ centred_BxH / (b - 1)
  deviation_H = jnp.sqrt(jnp.diagonal(covariance_HxH) + 1e-4)
  off_HxH = covariance_HxH * (1 - jnp.eye(h))
  return jnp.mean(jax.nn.relu(1 - deviation_H)), jnp.sum(jnp.square(off_HxH)) / h
