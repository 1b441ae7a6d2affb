"""Draws in few lengths give the numbers that jax gives."""

import jax
import numpy as np
import pytest

from unsup_rule import prng

_KEY = jax.random.PRNGKey(3)
_SHAPES = [(), (1,), (3, 5, 7), (128,), (129,), (4096,), (70, 70)]


@pytest.mark.parametrize("shape", _SHAPES)
def test_numbers_are_those_of_jax(shape):
  np.testing.assert_array_equal(prng.uniform(_KEY, shape), jax.random.uniform(_KEY, shape))
  np.testing.assert_array_equal(
    prng.integers(_KEY, shape, 7), jax.random.randint(_KEY, shape, 0, 7)
  )
  np.testing.assert_array_equal(
    prng.truncated_normal(_KEY, shape), jax.random.truncated_normal(_KEY, -2.0, 2.0, shape)
  )


@pytest.mark.parametrize("n", [1, 2, 5, 200])
def test_keys_are_those_of_jax(n):
  np.testing.assert_array_equal(prng.split(_KEY, n), jax.random.split(_KEY, n))


def test_literal_numbers():
  np.testing.assert_allclose(prng.uniform(_KEY, (3,)), [0.0740526, 0.9381443, 0.6489570], rtol=1e-6)


def _lengths(n):
  text = str(jax.make_jaxpr(lambda key: prng.uniform(key, (n,)))(_KEY))
  return {length for length in (n, 128, 256) if f"[{length}]" in text}


def test_few_lengths_are_drawn():
  assert _lengths(10) == {10, 128}
  assert _lengths(100) == {100, 128}
  assert _lengths(200) == {200, 256}
  assert _lengths(5000) == {5000}


def test_the_older_generator_draws_what_it_draws():
  with jax.threefry_partitionable(False):
    np.testing.assert_array_equal(prng.uniform(_KEY, (10,)), jax.random.uniform(_KEY, (10,)))
