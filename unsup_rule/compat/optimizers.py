"""The library's wrapper of optax transformations, which HEAD keeps in a module of its own."""

from unsup_rule import compat

if compat.IS_HEAD:
  from learned_optimization.optimizers.optax_opts import (  # pyright: ignore[reportMissingImports]
    OptaxOptimizer,
  )
else:
  from learned_optimization.optimizers.base import OptaxOptimizer

__all__ = ["OptaxOptimizer"]
