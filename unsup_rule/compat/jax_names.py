"""Names that learned_optimization 0.0.1 expects of jax and that later releases removed."""

import types

import jax
import jax.core
import jax.lib


def restore() -> None:
  """Puts the missing names back; names that this jax still has stay as they are."""
  for target, name, value in (
    (jax, "tree_map", jax.tree_util.tree_map),
    (jax, "tree_multimap", jax.tree_util.tree_map),
    (jax, "tree_flatten", jax.tree_util.tree_flatten),
    (jax, "tree_unflatten", jax.tree_util.tree_unflatten),
    (jax, "tree_leaves", jax.tree_util.tree_leaves),
    (jax, "tree_structure", jax.tree_util.tree_structure),
    (jax, "ShapedArray", jax.core.ShapedArray),
    (jax.lib, "xla_client", types.SimpleNamespace(Device=jax.Device)),
  ):
    if not hasattr(target, name):
      setattr(target, name, value)
