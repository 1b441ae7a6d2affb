"""The smallest rule, initial parameters drawn without a program for each size, and noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr, ndtri

from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.structures import Params, Weights
from unsup_rule.rule.theta import Sizes, Theta, nested, specs

SMALL = MLP(3, (), 4)
SMALLEST = Sizes(4, 3, 0, 5, 0, 3, 2)


def noisy(tree, scale, seed=0):
  """The tree with noise on every leaf, so that no bias or offset is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32), tree)


def _cut_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  """Normal numbers, of which none is beyond two deviations."""
  return ndtri(rng.uniform(*ndtr([-2.0, 2.0]), shape))


@functools.cache
def drawn_theta(sizes: Sizes, seed: int = 0) -> Theta:
  """Of the distribution that a rule of these sizes draws it from; compiling that takes seconds."""
  rng = np.random.default_rng(seed)
  table = specs(sizes)
  drawn = {k: s.mean + s.deviation * _cut_normal(rng, s.shape) for k, s in table.items()}
  return nested({name: jnp.asarray(array, jnp.float32) for name, array in drawn.items()})


@functools.cache
def drawn_weights(mlp: MLP, seed: int) -> Params:
  """{W, b, V} of the distribution that the base model draws them from."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(mlp.init, jax.random.PRNGKey(0))
  deviations = Params(tuple(Weights(w=0.01, b=0.1, v=0.01) for _ in shapes.stacks))
  return jax.tree.map(
    lambda leaf, d: jnp.asarray(d * _cut_normal(rng, leaf.shape), jnp.float32), shapes, deviations
  )
