"""Libraries that do not work with every jax."""

from importlib.metadata import version

import jax
import pytest


def require_flax_nnx():
  """Skips the test where Flax's own models cannot be made."""
  nnx = pytest.importorskip("flax.nnx")
  try:
    nnx.Linear(1, 1, rngs=nnx.Rngs(0))
  except AttributeError as error:
    pytest.skip(f"flax {version('flax')} does not work with jax {jax.__version__}: {error}")
