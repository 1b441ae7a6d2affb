"""The library's wrapper of optax transformations, which HEAD keeps in a module of its own."""

from unsup_rule import compat

if compat.IS_HEAD:
  from learned_optimization.optimizers.optax_opts import OptaxOptimizer  # pyright: ignore
else:
  from learned_optimization.optimizers.base import OptaxOptimizer as OptaxOptimizer
