"""The ridge probe: an example worked out by hand, fewer ways than columns, regression targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_rule.errors import UnsupRuleError
from unsup_rule.probe import RidgeProbe, Targets, accuracy, exchanges, unit_length

# One feature; train -1 (class 0) and 1 (class 1), test -2 and 3, both of class 0, and r = 2:
# A^T A + diag(r, 0) = diag(4, 2), y = +-sqrt(1/2), so w = -+sqrt(2)/4 and no bias.
FEATURES = jnp.array([[-1.0], [1.0], [-2.0], [3.0]])
TRAIN, TEST = Targets(jnp.array([0, 1])), Targets(jnp.array([0, 0]))


def by_hand(**options):
  return RidgeProbe(ridge_factor=2.0, **options)(FEATURES, TRAIN, TEST, 2)


def test_by_hand(strict):
  result = by_hand()
  np.testing.assert_allclose(result.ridge_y, [[0.7071068, -0.7071068], [-0.7071068, 0.7071068]])
  np.testing.assert_allclose(result.ridge_w, [[-0.35355339, 0.35355339], [0, 0]], atol=1e-7)
  np.testing.assert_allclose(
    result.logit_test, [[0.7071068, -0.7071068], [-1.0606602, 1.0606602]], rtol=1e-6
  )
  expected = {
    "mse_test": 2.0,  # unit vectors: one right, one opposite
    "mse_train": 0.25,
    "ridge_component": 0.25,
    "total_loss": 2.25,
    "loss": 2.25,
    "accuracy_test": 0.5,
    "accuracy_train": 1.0,
  }
  scalars = result.scalars()
  assert set(scalars) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(scalars[name], value, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
  ("options", "loss"),
  [
    ({"test_train_scalar": 0.25}, 0.9375),  # (2 + 0.25) / 4 + (0.25 + 0.25) 3 / 4
    ({"hinge_loss": True}, 1.75),  # relu(4 - 1) / 2 + 0.25
    ({"normalize_y_hat": False}, 3.375),  # (2.5 / sqrt 2)^2 2 / 2 + 0.25
    # One-hot columns as they are: w = -+1/4 and bias 1/2; predictions (1, 0) and (-1/4, 5/4),
    # so (25/16 + 25/16) / 2 and r (1/16 + 1/16) / 2.
    ({"center_y": False, "normalize_y_hat": False}, 1.6875),
    # Labels +-1: w = -+1/2, no bias; predictions (1, -1) and (-3/2, 3/2).
    ({"center_y": False, "normalize_y_hat": False, "zero_one_labels": False}, 6.75),
    # Under r = 6, w = -+sqrt(2) / 8, so the penalty is 6 (1/32 + 1/32) / 2.
    ({"further_ridge_factors": (6.0,)}, (2.25 + 2.1875) / 2),
    ({"further_ridge_factors": (6.0, 2.0)}, (2.25 + 2.1875 + 2.25) / 3),
    # The feature over sqrt(15): A^T A + r = 2/15 + 2, w = -+sqrt(2/15) / (2/15 + 2).
    ({"normalize_act": True}, 2.0585938),
  ],
  ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_variants_by_hand(options, loss, strict):
  np.testing.assert_allclose(by_hand(**options).loss, loss, rtol=1e-6)


def problem(k=12, ways=3, n_features=4, n_regression=0, seed=0):
  """Features and targets of k + k examples."""
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(2 * k, n_features)).astype(np.float32)

  def targets():
    real = rng.normal(size=(k, n_regression)).astype(np.float32)
    labels = rng.permutation(np.arange(k) % ways).astype(np.int32)
    return Targets(jnp.asarray(labels), jnp.asarray(real))

  return jnp.asarray(features), targets(), targets()


@pytest.mark.parametrize(
  "options",
  [{}, {"zero_one_labels": False}, {"center_y": False}, {"normalize_y_hat": False}],
  ids=lambda options: "-".join(options) or "default",
)
@pytest.mark.parametrize("n_regression", [0, 2])
def test_fewer_ways_than_columns(options, n_regression, strict):
  inputs = problem(n_regression=n_regression)
  probe = RidgeProbe(**options)
  exact = probe(*inputs, 3)
  padded = jax.jit(probe.__call__, static_argnums=3)(*inputs, 5, jnp.int32(3))
  for name, value in exact.scalars().items():
    np.testing.assert_allclose(padded.scalars()[name], value, rtol=1e-6, atol=1e-6, err_msg=name)
  np.testing.assert_array_equal(padded.ridge_w[:, 3:5], 0)
  kept = np.r_[0:3, 5 : 5 + n_regression]
  np.testing.assert_allclose(padded.ridge_w[:, kept], exact.ridge_w, rtol=0, atol=1e-6)


@pytest.mark.parametrize("center_y", [True, False])
@pytest.mark.parametrize("n_features", [12, 24, 60])
def test_weights_with_as_many_features_as_examples_and_more(n_features, center_y):
  """(A^T A + diag(r, .., r, 0))^-1 A^T y, whichever way it is solved."""
  features, train, test = problem(n_features=n_features, n_regression=2)
  result = RidgeProbe(0.3, center_y=center_y)(features, train, test, 3)
  a = np.concatenate([features, np.ones((24, 1))], axis=1).astype(np.float64)
  gram = a[:12].T @ a[:12] + 0.3 * np.diag([1.0] * n_features + [0.0])
  w = np.linalg.solve(gram, a[:12].T @ np.asarray(result.ridge_y, np.float64))
  np.testing.assert_allclose(result.ridge_w, w, rtol=0, atol=2e-6)
  np.testing.assert_allclose(result.logit_test, a[12:] @ w, rtol=0, atol=2e-5)
  np.testing.assert_allclose(result.ridge_component, 0.3 * np.sum(w[:-1] ** 2) / 12, rtol=1e-5)


def test_accuracy_looks_at_real_classes_only(strict):
  logits = jnp.array([[-1.0, -2.0, 0.0, 9.0], [-3.0, -2.0, 0.0, 9.0]])
  labels = jnp.array([0, 0])
  assert accuracy(logits, labels, 3, jnp.int32(2)) == 0.5
  assert accuracy(logits, labels, 3) == 0.0
  assert accuracy(logits, jnp.array([2, 2]), 3) == 1.0


def test_regression_targets_are_standardised(strict):
  _, train, _ = problem(n_regression=2)
  assert train.regression is not None
  columns = jnp.concatenate([7 * train.regression + 3, jnp.full((12, 1), 5.0)], axis=1)
  y = RidgeProbe(regression_weight=0.25).encode(Targets(train.labels, columns), 3)
  assert y.shape == (12, 6)
  np.testing.assert_allclose(jnp.mean(y[:, 3:], axis=0), [0, 0, 0], atol=1e-6)
  # A target that never changes says nothing.
  np.testing.assert_allclose(jnp.mean(jnp.square(y[:, 3:]), axis=0), [0.25, 0.25, 0], rtol=1e-5)
  np.testing.assert_allclose(jnp.mean(jnp.sum(jnp.square(y[:, :3]), axis=1)), 1, rtol=1e-6)


def test_no_regression_targets_are_the_same_as_empty_ones(strict):
  features, train, test = problem()
  empty = RidgeProbe()(features, train, test, 3)
  none = RidgeProbe()(features, Targets(train.labels), Targets(test.labels), 3)
  jax.tree.map(np.testing.assert_array_equal, empty, none)


def test_regression_targets_count_in_the_loss(strict):
  """Targets that the features tell lower the loss; the same targets shuffled do not."""
  features, train, test = problem(k=60)
  halves = zip((train, test), (features[:60], features[60:]), strict=True)
  told = [Targets(targets.labels, half[:, :1]) for targets, half in halves]
  shuffled = [Targets(t.labels, t.regression[::-1]) for t in told if t.regression is not None]
  probe = RidgeProbe(regression_weight=1.0)
  assert probe(features, *told, 3).loss < probe(features, *shuffled, 3).loss - 0.3


def test_dead_features_give_finite_loss_and_gradient(strict):
  features, train, test = problem()
  loss, gradient = jax.value_and_grad(lambda f: RidgeProbe()(f, train, test, 3).loss)(0 * features)
  # The length of a target: nothing is predicted, and rounding is not blown up to unit length.
  np.testing.assert_allclose(loss, 1.0, rtol=1e-6)
  assert np.isfinite(gradient).all()


def test_unit_length_of_zero_is_zero(strict):
  rows = jnp.array([[3.0, -4.0], [0.0, 0.0]])
  np.testing.assert_allclose(unit_length(rows), [[0.6, -0.8], [0, 0]], rtol=1e-6)
  assert np.isfinite(jax.jacobian(unit_length)(rows)).all()


@pytest.mark.parametrize(
  "options",
  [{}, {"normalize_act": True}, {"test_train_scalar": 0.5}, {"hinge_loss": True}],
  ids=lambda options: "-".join(options) or "default",
)
@pytest.mark.parametrize("n_features", [4, 25])
def test_gradient_against_finite_differences(options, n_features):
  with jax.enable_x64():
    features, train, test = problem(n_features=n_features, n_regression=1)
    features = jnp.asarray(np.asarray(features, np.float64))

    @jax.jit
    def loss(f):
      return RidgeProbe(**options)(f, train, test, 3).loss

    gradient = jax.grad(loss)(features)
    direction = np.random.default_rng(1).normal(size=features.shape)
    step = 1e-6
    numeric = (loss(features + step * direction) - loss(features - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(gradient * direction), numeric, rtol=1e-7, atol=1e-9)


def test_rows_that_divisions_exchange():
  """All, the odd ones, the even ones, the second of each two pairs, the first, and so on."""
  expected = ["1111", "0101", "1010", "0011", "1100"]
  np.testing.assert_array_equal(exchanges(6, 4), [[c == "1" for c in row] for row in expected])
  assert exchanges(1, 4).shape == (0, 4)
  rows = exchanges(100, 100)
  assert len({tuple(row) for row in rows.tolist()}) == 99
  assert not any(np.array_equal(row, np.zeros(100)) for row in rows)
  shares = np.mean(rows, axis=1)
  assert shares[0] == 1
  assert 0.3 < np.min(shares[1:]) <= np.max(shares[1:]) < 0.7


@pytest.mark.parametrize(
  "options", [{}, {"further_ridge_factors": (3.0,)}, {"normalize_act": True}]
)
def test_the_loss_of_several_divisions_is_their_mean(options, strict):
  features, train, test = problem(n_regression=2)
  # The n-th train example of a class and the n-th test example of it may change places.
  rows = [np.argsort(half.labels, stable=True) for half in (train, test)]
  pair = np.empty(12, int)
  pair[rows[0]] = 12 + rows[1]
  once = RidgeProbe(**options)
  losses = [once(features, train, test, 3).loss]
  for exchange in exchanges(4, 12):
    number = np.stack([np.arange(12), pair])
    number[:, exchange] = number[::-1, exchange]
    both = Targets(*(np.concatenate([a, b]) for a, b in zip(train, test, strict=True)))
    one, other = (Targets(both.labels[n], both.regression[n]) for n in number)
    losses.append(once(features[number.reshape(-1)], one, other, 3).loss)
  assert len(set(map(float, losses))) == 4
  first, several = once(features, train, test, 3), RidgeProbe(splits=4, **options)
  result = several(features, train, test, 3)
  np.testing.assert_allclose(result.loss, np.mean(losses), rtol=1e-6)
  unchanged = [
    (a, b) for name, a, b in zip(first._fields, first, result, strict=True) if name != "loss"
  ]
  jax.tree.map(np.testing.assert_array_equal, *map(list, zip(*unchanged, strict=True)))
  padded = jax.jit(several.__call__, static_argnums=3)(features, train, test, 5, jnp.int32(3))
  np.testing.assert_allclose(padded.loss, result.loss, rtol=1e-5)


def test_several_divisions_have_the_same_loss_on_average_with_less_variance():
  """Features of a class are its number's corner and noise; 400 draws of 20 + 20 examples."""
  k, draws = 20, 400
  labels = jnp.arange(k) % 4
  corners = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])

  def losses(splits):
    def loss(key):
      noise = jax.random.normal(key, (2 * k, 2))
      features = corners[jnp.concatenate([labels, labels])] + noise
      return RidgeProbe(splits=splits)(features, Targets(labels), Targets(labels), 4).loss

    return np.asarray(jax.jit(jax.vmap(loss))(jax.random.split(jax.random.PRNGKey(0), draws)))

  one, eight = losses(1), losses(8)
  error = np.std(one - eight) / np.sqrt(draws)
  assert abs(np.mean(one) - np.mean(eight)) < 3 * error
  assert np.var(eight) < 0.8 * np.var(one)


@pytest.mark.parametrize("splits", [0, -1, 13])
def test_bad_numbers_of_divisions(splits):
  with pytest.raises(UnsupRuleError, match=f"splits is {splits}; give 1 to 12") as error:
    RidgeProbe(splits=splits)(*problem(), 3)
  assert "\n" not in str(error.value)


def test_divisions_of_halves_of_two_sizes():
  labels = [Targets(jnp.zeros(n, jnp.int32)) for n in (3, 2)]
  with pytest.raises(UnsupRuleError, match=r"halves of one size; these have 3 and 2 .* give 1"):
    RidgeProbe(splits=2)(jnp.zeros((5, 3)), *labels, 2)
  assert RidgeProbe(splits=1)(jnp.zeros((5, 3)), *labels, 2).logit_test.shape == (2, 2)


@pytest.mark.parametrize(("rows", "train", "test"), [(5, 2, 2), (2, 0, 2), (2, 2, 0), (0, 0, 0)])
def test_bad_shapes(rows, train, test):
  labels = [Targets(jnp.zeros(n, jnp.int32)) for n in (train, test)]
  with pytest.raises(UnsupRuleError, match=f"{rows} feature rows for {train} train") as error:
    RidgeProbe()(jnp.zeros((rows, 3)), *labels, 2)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"ridge_factor": -1}, {"further_ridge_factors": (1.0, -0.5)}])
def test_a_negative_penalty_is_refused(options):
  with pytest.raises(UnsupRuleError, match=r"a ridge factor of -.*; give 0 or more"):
    RidgeProbe(**options)


def test_penalties_may_come_as_a_list():
  """As gin files have them; what is compiled for a probe is found by its hash."""
  listed, tupled = (RidgeProbe(further_ridge_factors=kind([1.0])) for kind in (list, tuple))
  assert (listed, hash(listed)) == (tupled, hash(tupled))
