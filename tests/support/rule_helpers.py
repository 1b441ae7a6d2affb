"""The smallest rule, initial parameters drawn by one program each, and noise for them."""

import functools

import jax
import numpy as np

from unsup_rule.plugin.theta import init_theta
from unsup_rule.rule.mlp import MLP, Params
from unsup_rule.rule.theta import Sizes, Theta

SMALL = MLP(3, (), 4)
SMALLEST = Sizes(4, 3, 0, 5, 0, 3, 2)


def noisy(tree, scale, seed=0):
  """The tree with noise on every leaf, so that no bias or offset is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32), tree)


@functools.cache
def drawn_theta(sizes: Sizes, seed: int = 0) -> Theta:
  """As a rule of these sizes draws it."""
  return jax.jit(init_theta, static_argnums=0)(sizes, jax.random.PRNGKey(seed))


@functools.cache
def drawn_weights(mlp: MLP, seed: int) -> Params:
  """{W, b, V} as the base model draws them."""
  return jax.jit(mlp.init)(jax.random.PRNGKey(seed))
