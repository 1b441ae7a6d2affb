"""The library's wrapper of optax transformations, which HEAD keeps in a module of its own."""

from unsup_rule import compat

if compat.IS_HEAD:
  from learned_optimization.optimizers import optax_opts as home  # pyright: ignore
else:
  from learned_optimization.optimizers import base as home

OptaxOptimizer = home.OptaxOptimizer
