"""What is tuned for a CPU against its plain version, value and gradient; blocks: test_layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_helpers import SMALLEST, drawn_theta

from unsup_rule.probe import ridge_weights
from unsup_rule.rule import layers, tuning
from unsup_rule.rule.terms import Connection, terms
from unsup_rule.rule.tuning import products


def arrays(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def check_equal(tuned, plain, *arguments):
  """Compares values, and gradients of a fixed projection of them."""

  def value_and_gradients(function):
    @jax.jit
    def projected(*arguments):
      out = jax.tree.leaves(function(*arguments))
      return sum(jnp.sum(jnp.cos(jnp.arange(x.size)).reshape(x.shape) * x) for x in out), out

    every = tuple(range(len(arguments)))
    return jax.value_and_grad(projected, argnums=every, has_aux=True)(*arguments)

  found, wanted = value_and_gradients(tuned), value_and_gradients(plain)
  for ours, expected in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_linears(strict):
  blocks = [["a", "b"], ["c"], ["b", "a", "d"]]
  names = "abcd"
  weights = arrays(0, *[(5, 2)] * len(names))
  offsets = arrays(1, *[(2,)] * len(names))
  theta = {n: {"w": w, "b": b} for n, w, b in zip(names, weights, offsets, strict=True)}
  (x,) = arrays(2, (5, 3, 4))
  assert [p.shape for p in layers.linears(theta, blocks, x)] == [
    (2, 2, 3, 4),
    (1, 2, 3, 4),
    (3, 2, 3, 4),
  ]
  check_equal(
    lambda theta, x: products.linears(theta, blocks, x),
    lambda theta, x: layers.linears(theta, blocks, x),
    theta,
    x,
  )


def test_mixture(strict):
  check_equal(products.mixture, layers.mixture, *arrays(3, (12,), (12, 4, 3)))


def test_systems_solved_in_turn(strict):
  """By the probe, which differentiates through it: what it solves alone and in a batch."""

  def plain(a, y):
    penalty = jnp.diag(jnp.asarray([0.1, 0.1, 0.1, 0]))
    return jnp.linalg.solve(a.mT @ a + penalty, a.mT @ y)

  a, y = arrays(4, (5, 9, 4), (5, 9, 3))
  solved = functools.partial(ridge_weights, ridge_factor=0.1)
  check_equal(solved, plain, a[0], y[0])
  check_equal(jax.vmap(solved), jax.vmap(plain), a, y)
  systems = a.mT @ a
  np.testing.assert_allclose(
    jax.vmap(tuning.solve)(systems, a.mT @ y), np.linalg.solve(systems, a.mT @ y), rtol=1e-4
  )


@pytest.mark.parametrize("sizes", [(3, 90), (90, 3)], ids=str)
@pytest.mark.parametrize("mask", [None, (1.0, 1.0, 0.0, 1.0)])
def test_terms_without_square_matrices(sizes, mask, monkeypatch, strict):
  """Of a wide layer above a narrow one, and the other way round."""
  theta = drawn_theta(SMALLEST)
  lower, upper = sizes
  channels = SMALLEST.compute_h_size
  shapes = (lower, upper), (channels, 4, upper), (channels, 4, lower), (4, upper), (4, lower)

  def all_terms(low_rank, *arguments):
    monkeypatch.setattr(products, "is_low_rank", low_rank)
    kept = None if mask is None else jnp.asarray(mask)
    connection = Connection(theta, "forward", *arguments, kept)
    return [term(connection) for term in terms(13).values()]

  by_factors = []

  def recorded(*arguments):
    by_factors.append(is_low_rank(*arguments))
    return by_factors[-1]

  is_low_rank = products.is_low_rank
  by_square = functools.partial(all_terms, lambda *unused: False)
  check_equal(functools.partial(all_terms, recorded), by_square, *arrays(6, *shapes))
  assert any(by_factors)


@pytest.mark.parametrize("at_once", [1, 2, 3, 6])
@pytest.mark.parametrize("task_batching", ["auto", "map", "vmap"])
def test_tasks_in_chunks(task_batching, at_once, monkeypatch, strict):
  """Six tasks of 4 x 3 numbers each, which share another argument."""
  monkeypatch.setattr(tuning, "AT_ONCE", 12 * at_once)

  def function(w, x):
    return {"y": jnp.tanh(x @ w), "norm": jnp.sum(jnp.square(x))}

  prepared = tuning.prepared(function, "step", task_batching)
  w, x = arrays(5, (3, 2), (6, 4, 3))
  check_equal(jax.vmap(prepared, (None, 0)), jax.vmap(function, (None, 0)), w, x)
