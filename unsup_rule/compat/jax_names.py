"""What learned_optimization expects of jax, put in place before its first module is loaded."""

import functools
import types

import jax
import jax.core
import jax.lib

from unsup_rule import compat


@functools.cache
def prepare() -> None:
  """Gives release 0.0.1 the names of jax it misses, and both versions small programs."""
  if not compat.IS_HEAD:
    _restore()
  # Arrays that a jitted function captures become arguments of the compiled program instead of
  # literals in it: without this a task's data set is copied into every compilation.
  if hasattr(jax.config, "jax_use_simplified_jaxpr_constants"):
    jax.config.update("jax_use_simplified_jaxpr_constants", True)


def _restore() -> None:
  """Puts names back that later releases of jax removed; those that are there stay as they are."""
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
