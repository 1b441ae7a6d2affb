"""The smallest rule, and noise for its parameters."""

import jax
import numpy as np

from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.theta import Sizes

SMALL = MLP(3, (), 4)
SMALLEST = Sizes(4, 3, 0, 5, 0, 3, 2)


def noisy(tree, scale, seed=0):
  """The tree with noise on every leaf, so that no bias or offset is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32), tree)
