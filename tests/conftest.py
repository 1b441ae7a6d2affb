"""Test settings and the fixtures that several modules share."""

import os

from folders import ROOT, SUPPORT

# Processes that tests start inherit both: they find this checkout and the tests' helpers.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["PYTHONPATH"] = os.pathsep.join(
  [*filter(None, [os.environ.get("PYTHONPATH")]), str(SUPPORT), str(ROOT)]
)

import contextlib
from collections.abc import Iterator

import gin
import jax
import pytest
from rule_helpers import SMALLEST, noisy

import unsup_rule  # noqa: F401  Before any test imports learned_optimization.
from unsup_rule.rule.theta import init_theta


@pytest.fixture
def strict() -> Iterator[None]:
  """No implicit dtype or rank promotion, for tests that run our own code alone.

  Not for all tests, since learned_optimization itself promotes both.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.numpy_dtype_promotion("strict"))
    stack.enter_context(jax.numpy_rank_promotion("raise"))
    yield


@pytest.fixture(scope="session")
def smallest_theta():
  """A theta of the sizes `SMALLEST`."""
  return noisy(init_theta(SMALLEST, jax.random.PRNGKey(0)), 0.1)


@pytest.fixture(autouse=True)
def _clean_gin() -> Iterator[None]:
  """Each test finds an empty, unlocked gin configuration."""
  gin.clear_config()
  yield
  gin.clear_config()


_compilations: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, *_, **__: _compilations.append(event) if "backend_compile" in event else None
)


@pytest.fixture
def compilations() -> list[str]:
  """Grows with each program that jax compiles; a test may clear it."""
  _compilations.clear()
  return _compilations
