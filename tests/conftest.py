"""Test settings and the fixtures that several modules share."""

import contextlib
import gc
import os
import pathlib
import resource
from collections.abc import Iterator

import environment  # isort: split  First, since jax reads it when it is imported.
import gin
import jax
import pytest
from rule_helpers import SMALLEST, drawn_theta, noisy

import unsup_rule  # noqa: F401  Before any test imports learned_optimization.
from unsup_rule.machine import memory

_STATM = pathlib.Path("/proc/self/statm")
_MOST_BYTES = 1_300_000_000
_LEAST_FREED = 200_000_000  # What letting go of programs, which takes half a second, is worth.


# Modules that take longest, which begin first, so that no worker is left with one at the end. The
# fourth is short: pytest-xdist has it wait behind the first, whose one slow test lasts longest.
_LONGEST = (
  "test_network_breaks",
  "test_launch_faults",
  "test_golden",
  "test_groups",
  "test_benchmark",
  "test_golden_eager",
  "test_population_run",
  "test_cluster",
  "test_library_runs",
  "test_network",
  "test_distribution_compile",
  "test_rule",
  "test_learned_optimizer",
  "test_evaluation_protocol",
  "test_composition",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Longest modules first; the order within a module stays."""
  place = {name: number for number, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: place.get(item.path.stem, len(_LONGEST)))


def pytest_collection_finish() -> None:
  """What is imported stays; tracing makes many short-lived objects, which go without haste."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure() -> None:
  """Compiled programs are removed by the process that started the workers."""
  if "PYTEST_XDIST_WORKER" not in os.environ:
    environment.clean_up()


def _drop_programs() -> None:
  """Lets compiled programs go, and hands their memory back."""
  jax.clear_caches()
  gc.collect()
  memory.give_back()


def _resident_bytes() -> int:
  """Memory that this process occupies; 0 where the system does not say."""
  try:
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()
  except OSError:
    return 0


@pytest.fixture(scope="module")
def little_memory() -> None:
  """For a module of which a test fills much of it at once."""
  _drop_programs()


class _Memory:
  """Bounds what programs occupy: less in a process that has imported much."""

  bound = _MOST_BYTES

  def check(self) -> None:
    """Lets programs go when they have filled it."""
    if _resident_bytes() > self.bound:
      _drop_programs()
      self.bound = max(_MOST_BYTES, _resident_bytes() + _LEAST_FREED)


_memory = _Memory()


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
  """Tests share programs, also those of other modules, until these occupy too much.

  Large ones are read from disk when they are needed again.
  """
  yield
  _memory.check()


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
  return noisy(drawn_theta(SMALLEST), 0.1)


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
