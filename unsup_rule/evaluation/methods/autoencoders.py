"""A variational autoencoder and a plain one; the encoder is the base model."""

import dataclasses
import itertools
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.rule.mlp import NONLINEARITIES

Layers = list[dict[str, jax.Array]]


def dense_init(key: jax.Array, sizes: tuple[int, ...]) -> Layers:
  """A stack of dense layers: He's normal weights, zero biases."""
  keys = jax.random.split(key, len(sizes) - 1)
  return [
    {"w": jax.random.normal(k, (m, n)) * jnp.sqrt(2 / m), "b": jnp.zeros(n)}
    for k, (m, n) in zip(keys, itertools.pairwise(sizes), strict=True)
  ]


def dense(layers: Layers, x_BxM: jax.Array, nonlinearity: str) -> jax.Array:
  """Applies the stack, linear at its end."""
  for layer in layers[:-1]:
    x_BxM = NONLINEARITIES[nonlinearity](x_BxM @ layer["w"] + layer["b"])
  return x_BxM @ layers[-1]["w"] + layers[-1]["b"]


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class Autoencoder:
  """Encoder = base model; decoder = its mirror image, without normalisation; Adam.

  The reconstruction loss is the Bernoulli cross-entropy for images, half the squared error for
  counts and points, summed over the inputs (nats an example).

  Attributes:
    learning_rate: of Adam.
    corruption: share of inputs that the encoder sees replaced by those of other examples.
  """

  learning_rate: float = 1e-3
  corruption: float = 0.0

  label = "autoencoder"
  about = "the base model as encoder, features = its output"
  source = "Hinton and Salakhutdinov 2006"
  reference = False
  variational = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Trains encoder and decoder together."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    optimizer = optax.adam(self.learning_rate)
    latent = mlp.n_outputs

    def init(key, unused_permutation):
      encoder_key, head_key, decoder_key = jax.random.split(key, 3)
      params: dict[str, Any] = {
        "encoder": base.forward_only(mlp.init(encoder_key)),
        "decoder": dense_init(decoder_key, mlp.sizes[::-1]),
      }
      if self.variational:
        params["head"] = dense_init(head_key, (latent, 2 * latent))
      return params, optimizer.init(params)

    def encode(params, x_BxP):
      features = mlp.features(params["encoder"], x_BxP)
      if not self.variational:
        return features, None
      return jnp.split(dense(params["head"], features, mlp.nonlinearity), 2, axis=1)

    def loss(params, key, x_BxP):
      seen_BxP = corrupted(key, x_BxP, self.corruption) if self.corruption else x_BxP
      z, log_variance = encode(params, seen_BxP)
      divergence = 0.0
      if log_variance is not None:
        kl = jnp.square(z) + jnp.exp(log_variance) - 1 - log_variance
        divergence = 0.5 * jnp.mean(jnp.sum(kl, axis=1))
        z = z + jnp.exp(log_variance / 2) * jax.random.normal(key, z.shape)
      out = dense(params["decoder"], z, mlp.nonlinearity)
      error = (
        optax.sigmoid_binary_cross_entropy(out, x_BxP)
        if inputs.is_image
        else 0.5 * jnp.square(out - x_BxP)
      )
      return jnp.mean(jnp.sum(error, axis=1)) + divergence

    def step(state, key, x_BxP):
      params, moments = state
      updates, moments = optimizer.update(jax.grad(loss)(params, key, x_BxP), moments, params)
      return optax.apply_updates(params, updates), moments

    learner = base.Learner(
      init=init,
      step=step,
      embed=lambda state, x: encode(state[0], x)[0],
      objective=lambda state, key, x: loss(state[0], key, x),
    )
    return base.training(learner, setting, inputs)

  def cost(self, setting: Setting) -> float:
    """Encoder and decoder."""
    return 4.0 * setting.size * setting.steps[-1]


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class VAE(Autoencoder):
  """Kingma and Welling 2014: a normal posterior on as many latents as the embedding has units."""

  label = "VAE"
  about = "the base model as encoder, features = mean of the posterior"
  source = "Kingma and Welling 2014"
  variational = True


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class DenoisingAutoencoder(Autoencoder):
  """Vincent et al. 2008: reconstructs an example from one with inputs of others mixed in."""

  corruption: float = 0.3

  label = "denoising autoencoder"
  about = "the base model as encoder of corrupted inputs, features = its output"
  source = "Vincent et al. 2008"


def corrupted(key: jax.Array, x_BxP: jax.Array, share: float) -> jax.Array:
  """Replaces a share of the inputs, each by that of another random example."""
  mask_key, row_key = jax.random.split(key)
  rows_BxP = jax.random.randint(row_key, x_BxP.shape, 0, len(x_BxP))
  others_BxP = jnp.take_along_axis(x_BxP, rows_BxP, axis=0)
  return jnp.where(jax.random.bernoulli(mask_key, share, x_BxP.shape), others_BxP, x_BxP)
