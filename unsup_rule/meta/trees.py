"""Trees of arrays as flat dictionaries from leaf name to array, and back, with checks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule import storage


def to_leaves(tree: Any) -> dict[str, np.ndarray]:
  """Returns the leaves of `tree` by path, for instance `['mlp']['w']`, as numpy arrays."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(_typed(leaf)) for path, leaf in paths}


def from_leaves(leaves: Mapping[str, np.ndarray], like: Any, what: str) -> Any:
  """Puts `leaves` into a tree of the structure of `like`.

  Args:
    leaves: arrays by path, as `to_leaves` gives them.
    like: a tree of arrays, or of `jax.ShapeDtypeStruct`.
    what: names the tree in messages, such as "theta in runs/a/params".

  Returns:
    The tree, with leaves of jax.

  Raises:
    UnsupRuleError: names the first leaf that is missing, is too many, or differs in shape or dtype.
  """
  paths, structure = jax.tree_util.tree_flatten_with_path(like)
  wanted = {jax.tree_util.keystr(path): _typed(leaf) for path, leaf in paths}
  storage.check_fit(
    leaves, wanted, what, "it was made with another configuration; go back to that one"
  )
  return jax.tree_util.tree_unflatten(structure, [jnp.asarray(leaves[name]) for name in wanted])


def strong(tree: Any) -> Any:
  """Returns `tree` without jax's weak types.

  A checkpoint cannot keep them, and the same program is compiled once for each kind: without this
  a resumed run compiles twice.
  """
  return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, _typed(leaf).dtype), tree)


def all_finite(tree: Any) -> bool:
  """Tells whether every floating-point leaf is finite throughout."""
  return all(
    np.isfinite(leaf).all() for leaf in _arrays(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)
  )


def norm(tree: Any) -> float:
  """Returns the Euclidean norm of all leaves together."""
  return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in _arrays(tree))))


def mean_abs(tree: Any) -> float:
  """Returns the mean absolute value of all elements together."""
  leaves = _arrays(tree)
  return float(
    sum(np.abs(leaf).sum(dtype=np.float64) for leaf in leaves) / sum(leaf.size for leaf in leaves)
  )


def _arrays(tree: Any) -> list[np.ndarray]:
  return [np.asarray(_typed(leaf)) for leaf in jax.tree_util.tree_leaves(tree)]


def _typed(leaf: Any) -> Any:
  # A Python scalar counts as what jax makes of it.
  return leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
