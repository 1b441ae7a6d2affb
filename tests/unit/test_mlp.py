"""The base model against plain NumPy in float64, its parameters, and missing examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_helpers import drawn_weights

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import MLP, NONLINEARITIES, flatten_examples
from unsup_rule.rule.structures import Params, Weights

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)

PLAIN = {
  "relu": lambda z: np.maximum(z, 0),
  "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
  "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
  "softplus": lambda z: np.log1p(np.exp(z)),
  "swish": lambda z: z / (1 + np.exp(-z)),
  "tanh": np.tanh,
  "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
  "step": lambda z: np.where(z > 0, 1.0, 0.0),
}


def plain_forward(layers, x, nonlinearity):
  """[(z_l, x_l)] of each layer, float64."""
  x, out = x.astype(np.float64), []
  for layer in layers:
    y = x @ np.asarray(layer.w, np.float64)
    z = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-6) + np.asarray(layer.b, np.float64)
    x = PLAIN[nonlinearity](z)
    out.append((z, x))
  return out


def test_forward_by_hand(strict):
  mlp = MLP(1, (), 2)
  w = jnp.array([[1.0, -2.0]])
  params = Params.of_layers([Weights(w=w, b=jnp.array([0.5, 0.0]), v=w)])
  out = mlp.apply(params, jnp.array([[0.0], [2.0]]))
  np.testing.assert_allclose(out.z(1), [[-0.5, 1], [1.5, -1]], atol=2e-6)
  np.testing.assert_allclose(mlp.features(params, out.x(0)), [[0, 1], [1.5, 0]], atol=2e-6)


@pytest.mark.parametrize("hidden", [(), (4,), (4, 4, 4), (3, 4, 4, 7)])
def test_forward_against_numpy(hidden, strict):
  mlp = MLP(5, hidden, 4)
  params = drawn_weights(mlp, 1)
  activations = mlp.apply(params, jnp.asarray(X))
  np.testing.assert_array_equal(activations.x_0, X)
  ours = activations.layers
  plain = plain_forward(params.layers, X, "relu")
  assert len(ours) == len(plain) == mlp.n_layers
  for layer, (z, x) in zip(ours, plain, strict=True):
    np.testing.assert_allclose(layer.z, z, rtol=0, atol=2e-5)
    np.testing.assert_allclose(layer.x, x, rtol=0, atol=2e-5)
  np.testing.assert_array_equal(mlp.features(params, jnp.asarray(X)), ours[-1].x)


@pytest.mark.parametrize("nonlinearity", sorted(NONLINEARITIES))
def test_nonlinearity(nonlinearity, strict):
  mlp = MLP(5, (4,), 4, nonlinearity)
  params = drawn_weights(mlp, 2)
  features = mlp.features(params, jnp.asarray(X))
  assert features.dtype == jnp.float32
  expected = plain_forward(params.layers, X, nonlinearity)[-1][1]
  np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


def test_unknown_nonlinearity():
  with pytest.raises(UnsupRuleError, match="unknown nonlinearity 'relo'; choose one of relu, "):
    MLP(5, (4,), 4, "relo")


@pytest.mark.parametrize("sizes", [(0, (4,), 4), (5, (4, 0), 4), (5, (), -1)])
def test_bad_sizes(sizes):
  with pytest.raises(UnsupRuleError, match="must all be at least 1"):
    MLP(*sizes)


def test_equal_neighbours_are_stacked():
  mlp = MLP(7, (7, 7, 3, 7, 7), 7)
  assert [(stack.count, stack.n_below, stack.n) for stack in mlp.stacks] == [
    (2, 7, 7),
    (1, 7, 3),
    (1, 3, 7),
    (2, 7, 7),
  ]
  shapes = jax.tree.map(jnp.shape, mlp.init(jax.random.PRNGKey(0)))
  assert shapes.stacks[0] == Weights(w=(2, 7, 7), b=(2, 7), v=(2, 7, 7))
  assert shapes.stacks[2] == Weights(w=(1, 3, 7), b=(1, 7), v=(1, 3, 7))
  assert mlp.n_parameters == sum(leaf.size for leaf in jax.tree.leaves(mlp.init(jax.random.key(0))))


@pytest.mark.parametrize("hidden", [(), (4,), (5, 5, 4), (4, 4, 4, 6, 6)])
def test_layers_round_trip(hidden, strict):
  mlp = MLP(5, hidden, 4)
  params = drawn_weights(mlp, 0)
  layers = params.layers
  shapes = list(zip(mlp.sizes[:-1], mlp.sizes[1:], strict=True))
  assert [layer.w.shape for layer in layers] == shapes
  again = Params.of_layers(layers)
  assert jax.tree.structure(again) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_init_distribution(strict):
  params = MLP(100, (200,), 200).init(jax.random.PRNGKey(3))
  layers = params.stacks
  for name, sigma in (("w", 0.01), ("v", 0.01), ("b", 0.1)):
    values = np.concatenate([np.ravel(getattr(layer, name)) for layer in layers])
    assert values.dtype == np.float32
    # 0.8796 is the standard deviation of a unit normal cut at two sigma.
    few = 0.06 if name == "b" else 0.01
    np.testing.assert_allclose(values.std(), 0.8796 * sigma, rtol=few)
    assert abs(values.mean()) < few * sigma * 2
    assert 1.9 * sigma < np.abs(values).max() <= 2 * sigma * (1 + 1e-6)
  for layer in layers:
    assert abs(np.corrcoef(np.ravel(layer.w), np.ravel(layer.v))[0, 1]) < 0.05


def test_layers_are_drawn_independently(strict):
  mlp = MLP(4, (4, 4), 4)
  a, b, c = (layer.w for layer in mlp.init(jax.random.PRNGKey(0)).layers)
  assert not np.array_equal(a, b)
  assert not np.array_equal(b, c)


MASK = np.array([0, 1, 1, 0, 1, 1])


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
@pytest.mark.parametrize("hidden", [(4, 4, 4), ()])
def test_mask_equals_the_smaller_batch(hidden, dtype, strict):
  mlp = MLP(5, hidden, 4)
  params = drawn_weights(mlp, 4)
  x = np.where(MASK[:, None] > 0, X, np.float32(np.nan))  # what is missing may be anything
  masked = mlp.apply(params, jnp.asarray(x), jnp.asarray(MASK.astype(dtype)))
  smaller = mlp.apply(params, jnp.asarray(X[MASK > 0]))
  np.testing.assert_array_equal(masked.mask, [1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(masked.x_0[:4], smaller.x_0)
  assert masked.slope == smaller.slope == 1
  pairs = zip(jax.tree.leaves(masked.stacks), jax.tree.leaves(smaller.stacks), strict=True)
  for ours, expected in pairs:
    np.testing.assert_allclose(ours[:, :4], expected, rtol=0, atol=1e-5)


def test_mask_of_ones_changes_nothing(strict):
  mlp = MLP(5, (4,), 4)
  params = drawn_weights(mlp, 4)
  masked = mlp.features(params, jnp.asarray(X), jnp.ones(6))
  np.testing.assert_allclose(masked, mlp.features(params, jnp.asarray(X)), rtol=0, atol=1e-5)


def test_constant_input_gives_the_biases(strict):
  """No variance over the batch: the normalised value is 0, and nothing is divided by it."""
  mlp = MLP(5, (), 4)
  params = drawn_weights(mlp, 5)
  features = mlp.features(params, jnp.zeros((3, 5)))
  np.testing.assert_array_equal(features, jnp.tile(jax.nn.relu(params.stacks[0].b), (3, 1)))


def test_flatten_is_row_major():
  x = jnp.arange(24).reshape(2, 2, 3, 2)
  np.testing.assert_array_equal(flatten_examples(x)[1], np.arange(12, 24))
  np.testing.assert_array_equal(flatten_examples(flatten_examples(x)), flatten_examples(x))
