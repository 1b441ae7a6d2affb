"""`UnsupervisedFeatures` as scikit-learn's users meet it."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_helpers import SIZES
from rule_helpers import drawn_theta, drawn_weights
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import unsup_rule
from unsup_rule import UnsupervisedFeatures
from unsup_rule.errors import UnsupRuleError
from unsup_rule.features import frozen, programs
from unsup_rule.features.rows import Sample, check_size
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.weights.archive import Archive, Use


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
  """A small one, not trained, with an embedding of 8, made for 10 steps on 16 rows."""
  theta = jax.tree.map(np.asarray, drawn_theta(SIZES, 0))
  path = tmp_path_factory.mktemp("rule") / "small.npz"
  Archive(theta, InnerSchedule(0.01, 50.0), Use(10, 16), {}).write(path)
  return str(path)


@pytest.fixture(scope="module")
def data():
  """Three classes of 90 rows in 12 columns of very different scales."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(3), 30)
  rows = rng.normal(size=(90, 12)) + 3 * rng.normal(size=(3, 12))[labels]
  return rows * 10.0 ** np.arange(-6, 6) + 5, labels


def make(a_rule, **settings):
  return UnsupervisedFeatures(**{"hidden": (6, 6), "n_features": 8, "rule": a_rule, **settings})


@pytest.fixture(scope="module")
def fitted(rule, data):
  return make(rule).fit(data[0])


def test_is_the_rule_applied_to_standardised_rows(rule, data, fitted):
  """By hand, from the same initial weights, order of inputs and batches."""
  X, loaded = data[0], unsup_rule.pretrained(rule)
  assert fitted.n_steps_ == 10
  z = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
  random = np.random.RandomState(0)
  mlp = MLP(12, (6, 6), 8)
  drawn = mlp.init(jax.random.PRNGKey(random.randint(2**31 - 1)))
  columns = random.permutation(12)
  z, params = z[:, columns], drawn.permuted(columns)
  optimizer = loaded.optimizer()
  state = optimizer.init(params)
  step = jax.jit(lambda s, x: optimizer.update(s, model_state=mlp.apply(s.params, x)))
  orders = [random.permutation(90) for _ in range(2)]
  for start in (0, 16, 32, 48, 64):
    state = step(state, z[orders[0][start : start + 16]])
  for start in (0, 16, 32, 48, 64):
    state = step(state, z[orders[1][start : start + 16]])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
    fitted.params_.permuted(columns),
    state.params,
  )
  moved = np.abs(fitted.params_.stacks[0].w - drawn.stacks[0].w).max()
  assert moved > 0.01


@pytest.mark.parametrize("n_inputs", [4, 6])
def test_permuted_weights_fit_permuted_inputs(n_inputs):
  """With 6 inputs the bottom matrix is stacked with others, whose rows are hidden units."""
  mlp, order = MLP(n_inputs, (6, 6), 8), np.random.default_rng(0).permutation(n_inputs)
  params = drawn_weights(mlp, 0)
  x = np.random.default_rng(1).normal(size=(9, n_inputs)).astype(np.float32)
  moved = params.permuted(order)
  np.testing.assert_allclose(
    mlp.features(moved, x[:, order]), mlp.features(params, x), rtol=1e-5, atol=1e-6
  )
  jax.tree.map(np.testing.assert_array_equal, moved.permuted(np.argsort(order)), params)


def test_a_row_alone_is_embedded_as_among_others(data, fitted):
  X = data[0]
  together = fitted.transform(X)
  np.testing.assert_array_equal(fitted.transform(X[5:6])[0], together[5])
  np.testing.assert_array_equal(fitted.transform(X[::-1]), together[::-1])
  np.testing.assert_array_equal(fitted.transform(np.tile(X, (7, 1)))[90 * 6 :], together)


def test_embedding_is_that_of_the_training_rows_as_one_batch(data, fitted):
  z = fitted.scaler_.transform(data[0]).astype(np.float32)
  mlp = MLP(12, (6, 6), 8)
  expected = mlp.features(fitted.params_, z)
  np.testing.assert_allclose(fitted.transform(data[0]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(6, 6), (5, 7), ()])
def test_all_layers_side_by_side(rule, data, hidden):
  """Each is that layer of the training rows as one batch; the inputs come first."""
  model = make(rule, hidden=hidden, output="layers").fit(data[0])
  found = model.transform(data[0])
  z = model.scaler_.transform(data[0]).astype(np.float32)
  layers = MLP(12, hidden, 8).apply(model.params_, z).layers
  expected = np.concatenate([z, *(layer.x for layer in layers)], axis=1)
  assert found.shape == (90, 12 + sum(hidden) + 8)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found[:, -8:], make(rule, hidden=hidden).fit_transform(data[0]))
  assert len(model.get_feature_names_out()) == 12 + sum(hidden) + 8


def test_inputs_beside_the_layers_keep_their_relative_sizes(rule, data):
  X = data[0]
  model = make(rule, output="layers", standardize=False, steps=0).fit(X)
  found = model.transform(X)[:, :12]
  np.testing.assert_allclose(np.mean(np.var(found, axis=0)), 1, rtol=1e-3)
  expected = (X - X.mean(0)) / np.sqrt(np.mean(X.var(0)))
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
  flat = np.ones((20, 12))
  assert np.isfinite(make(rule, output="layers", steps=0).fit_transform(flat)).all()


def test_other_rows_in_a_large_batch_are_embedded_nearly_alike():
  """As batch statistics of 3,000 other rows of the same distribution would embed them."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(7000, 12)).astype(np.float32)
  mlp = MLP(12, (16, 16), 8)
  params = drawn_weights(mlp, 0)
  network = programs.freeze(mlp, params, x[:4000])
  own = np.asarray(frozen.embed(mlp, network, x[4000:]))
  by_batch = np.asarray(mlp.features(params, x[4000:]))
  assert np.abs(own - by_batch).mean() < 0.05 * by_batch.std()
  small = np.concatenate([mlp.features(params, x[i : i + 8]) for i in range(4000, 7000, 8)])
  assert np.abs(small - by_batch).mean() > 4 * np.abs(own - by_batch).mean()


def test_masked_rows_do_not_count(data):
  mlp, x = MLP(12, (6, 6), 8, "tanh"), data[0][:40].astype(np.float32)
  params = drawn_weights(mlp, 0)
  mask = jnp.arange(40) < 30
  masked = frozen.freeze(mlp, params, jnp.asarray(x), mask.astype(jnp.float32))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    masked,
    frozen.freeze(mlp, params, jnp.asarray(x[:30])),
  )


def test_inference_works_inside_other_programs(data, fitted):
  """Gradients by the inputs, through jit and vmap."""
  z = jnp.asarray(fitted.scaler_.transform(data[0]), jnp.float32)
  mlp = MLP(12, (6, 6), 8)

  def total(row):
    return jnp.sum(frozen.embed(mlp, fitted.network_, row[None]))

  gradient = jax.jit(jax.vmap(jax.grad(total)))(z)
  assert gradient.shape == (90, 12)
  assert np.any(gradient)


def test_network_is_a_plain_mlp(data, fitted):
  x = fitted.scaler_.transform(data[0])
  for stack in fitted.network_:
    for w, b in zip(stack.w, stack.b, strict=True):
      x = np.maximum(x @ w + b, 0)
  np.testing.assert_allclose(fitted.transform(data[0]), x, rtol=1e-4, atol=1e-5)


def test_scale_of_columns_does_not_matter_unless_asked(rule, data):
  X = data[0]
  changed = X * np.arange(1, 13) + 3
  a, b = (make(rule, steps=2).fit(x).transform(x) for x in (X, changed))
  np.testing.assert_allclose(a, b, atol=1e-4)
  plain = make(rule, steps=2, standardize=False)
  c, d = (plain.fit(x).transform(x) for x in (X, changed))
  assert np.abs(c - d).max() > 0.1
  assert plain.scaler_ is None


def test_random_state(rule, data, fitted):
  X = data[0]
  np.testing.assert_array_equal(make(rule).fit_transform(X), fitted.transform(X))
  other = make(rule, random_state=1).fit_transform(X)
  assert np.abs(other - fitted.transform(X)).max() > 0.1
  two = [make(rule, random_state=np.random.RandomState(3)).fit_transform(X) for _ in range(2)]
  np.testing.assert_array_equal(*two)


def test_partial_fit_goes_on(rule, data):
  X = data[0]
  model = make(rule).partial_fit(X[:40])
  assert model.n_steps_ == 40 // 16
  before = model.params_.stacks[0].w
  model.partial_fit(X[40:])
  assert model.n_steps_ == 40 // 16 + 50 // 16
  assert np.abs(model.params_.stacks[0].w - before).max() > 0
  np.testing.assert_allclose(model.scaler_.mean_, X.mean(0), rtol=1e-6)
  few = make(rule).partial_fit(X[:5])
  assert few.n_steps_ == 0  # They wait for a batch.
  assert few.partial_fit(X[5:16]).n_steps_ == 1
  model.fit(X)
  assert model.n_steps_ == 10


def test_step_size_goes_on_from_call_to_call(rule, data):
  """It decays: the same pass moves the weights less when it comes later."""
  X = data[0]
  falling = dataclasses.replace(unsup_rule.pretrained(rule), schedule=InnerSchedule(0.1, 1.0))
  model = make(falling)
  moves, before = [], None
  for _ in range(4):
    weights = model.partial_fit(X).params_.stacks[0].w
    if before is not None:
      moves.append(np.abs(weights - before).max())
    before = weights
  assert moves[2] < moves[0] / 2


def test_instances_and_folds_share_programs(rule, data, compilations):
  X = data[0]
  make(rule).fit(X[:70]).transform(X)
  compilations.clear()
  other = make(unsup_rule.pretrained(rule), random_state=4, steps=3)
  clone(other).fit(X[5:81]).transform(X[:33])
  assert not compilations


def test_in_pipelines(rule, data):
  X, labels = data
  pipeline = make_pipeline(make(rule), RidgeClassifier())
  assert cross_val_score(pipeline, X, labels, cv=3).mean() > 0.5
  search = GridSearchCV(pipeline, {"unsupervisedfeatures__steps": [0, 2]}, cv=2).fit(X, labels)
  assert search.best_params_["unsupervisedfeatures__steps"] in (0, 2)
  names = [f"unsupervisedfeatures{i}" for i in range(8)]
  assert pipeline.fit(X, labels)[0].get_feature_names_out().tolist() == names


def test_pickled_and_copied(rule, data, fitted):
  again = pickle.loads(pickle.dumps(fitted))
  np.testing.assert_array_equal(again.transform(data[0]), fitted.transform(data[0]))
  loaded = make(unsup_rule.pretrained(rule))
  assert clone(loaded).rule.sha256 == loaded.rule.sha256
  assert repr(loaded).startswith("UnsupervisedFeatures(")


def test_progress_bar_only_on_request(rule, data, capsys):
  make(rule, steps=2).fit(data[0])
  assert capsys.readouterr() == ("", "")
  make(rule, steps=2, verbose=True).fit(data[0])
  assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"n_features": 5}, "n_features is 5, but rule 'small' is made for 8; use n_features=8, or"),
    ({"rule": "none-such"}, "no rule 'none-such'; known are"),
    ({"steps": -1}, r"'steps' .* must be an int in the range \[0, inf\) or None. Got -1"),
    ({"steps": 5.0}, r"'steps' .* must be an int in the range \[0, inf\) or None. Got 5.0"),
    ({"batch_size": 1}, r"'batch_size' .* in the range \[2, inf\) or None. Got 1"),
    ({"batch_size": "auto"}, r"'batch_size' .* in the range \[2, inf\) or None. Got 'auto'"),
    ({"hidden": (0,)}, r"hidden is \(0,\); give whole numbers of units, from 1 up"),
    ({"hidden": (48.7,)}, r"hidden is \(48.7,\); give whole numbers"),
    ({"hidden": np.array(8)}, r"hidden is array\(8\); give a number of units, or a list of them"),
    ({"hidden": [[8]]}, r"hidden is \[\[8\]\]; give a number of units, or a list"),
    ({"hidden": {8: 1}}, "hidden is {8: 1}; give a number of units, or a list"),
    ({"hidden": {8}}, r"hidden is \{8\}; give a number of units, or a list"),
    ({"output": "all"}, "'output' .* must be .* Got 'all'"),
    ({"hidden": "48"}, "'hidden' .* must be .* Got '48'"),
    ({"nonlinearity": "gelu"}, "'nonlinearity' .* must be a str among .* Got 'gelu'"),
    ({"standardize": "yes"}, "'standardize' .* must be .* Got 'yes'"),
  ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_parameters(rule, data, settings, message, method):
  with pytest.raises(ValueError, match=message) as caught:
    getattr(make(rule, **settings), method)(data[0])
  assert "\n" not in str(caught.value)


def test_a_number_is_one_hidden_layer(rule, data):
  assert make(rule, hidden=6, steps=1).fit(data[0]).mlp_.hidden == (6,)


def _all_of(model):
  return pickle.dumps(sorted(vars(model).items()))


def test_a_call_that_fails_changes_nothing(rule, data, fitted, monkeypatch):
  X = data[0]
  new = make(rule, steps=-1)
  with pytest.raises(ValueError, match="steps"):
    new.fit(X)
  with pytest.raises(NotFittedError):
    new.transform(X)
  model = copy.deepcopy(fitted).partial_fit(X[:20])
  before, embedded = _all_of(model), model.transform(X)
  for call in (model.fit, model.partial_fit):
    for bad in (X[:, :3] * np.inf, X[:0], np.full(X.shape, "a")):
      with pytest.raises(ValueError, match=r"inf|sample|str|convert"):
        call(bad)
    with monkeypatch.context() as patch:
      patch.setattr(programs, "freeze", _interrupted)
      with pytest.raises(KeyboardInterrupt):
        call(X + 1)
  with pytest.raises(ValueError, match="12 features"):
    model.partial_fit(X[:, :3])
  assert _all_of(model) == before
  np.testing.assert_array_equal(model.transform(X), embedded)


def _interrupted(*unused):
  raise KeyboardInterrupt


def test_what_was_fitted_is_fitted(rule, data):
  model = make(rule, steps=2).fit(data[0])
  before = model.transform(data[0])
  model.set_params(n_features=5, nonlinearity="tanh", hidden=(3,), standardize=False)
  model.set_params(output="layers")
  np.testing.assert_array_equal(model.transform(data[0]), before)
  assert len(model.get_feature_names_out()) == 8
  assert model.partial_fit(data[0]).transform(data[0]).shape == (90, 8)


@pytest.mark.parametrize("standardize", [True, False])
def test_it_does_not_matter_how_rows_are_cut_into_calls(rule, data, standardize):
  X = np.random.default_rng(1).uniform(size=(300, 20))
  whole = make(rule, standardize=standardize).partial_fit(X)
  for sizes in ([298, 2], [2] * 20 + [260], [7, 100, 1, 192]):
    model, start = make(rule, standardize=standardize), 0
    for size in sizes:
      model.partial_fit(X[start : start + size])
      start += size
    assert model.n_steps_ == whole.n_steps_ == 300 // 16
    np.testing.assert_allclose(model.transform(X), whole.transform(X), rtol=1e-3, atol=1e-4)


def test_two_equal_rows_at_the_end_do_no_harm(rule):
  X = np.random.default_rng(1).uniform(size=(300, 20))
  model = make(rule).partial_fit(X[:298])
  before = model.transform(X)
  model.partial_fit(X[[5, 5]])
  np.testing.assert_allclose(model.transform(X), before, atol=0.05 * np.abs(before).max())


@pytest.mark.parametrize(("n_inputs", "most"), [(1, 4096), (16_384, 4096), (100_000, 671)])
def test_a_sample_of_long_rows_is_small(n_inputs, most):
  assert Sample(n_inputs).most == most


def test_the_sample_is_of_all_rows_alike(rule):
  rows = np.arange(20_000.0)[:, None]
  random, parts = np.random.RandomState(0), Sample(1)
  for start in range(0, 20_000, 3_000):
    parts.add(rows[start : start + 3_000], random)
  whole = Sample(1)
  whole.add(rows, np.random.RandomState(0))
  np.testing.assert_array_equal(parts.rows, whole.rows)
  assert (parts.n_seen, len(np.unique(parts.rows))) == (20_000, 4_096)
  # A fifth each, give or take four standard deviations.
  assert abs(np.histogram(parts.rows, 5)[0] - 819.2).max() < 4 * 25.6


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (
      lambda X: np.where(np.arange(240).reshape(X.shape) == 15, 9.97e36, X),
      r"column 3 .*9.97e\+36",
    ),
    (lambda X: X * 1e30, r"column \d+ holds .*e\+29, too large"),
  ],
)
def test_values_too_large_are_named(rule, spoil, message):
  X = np.random.default_rng(1).uniform(size=(20, 12))
  model = make(rule, standardize=False, steps=2)
  for call in (model.fit, model.partial_fit, model.fit(X).transform):
    with pytest.raises(UnsupRuleError, match=message) as caught:
      call(spoil(X))
    assert "\n" not in str(caught.value)


def test_a_column_too_large_in_transform_alone_is_named(rule, data):
  model = make(rule, steps=2).fit(data[0])
  far = data[0].copy()
  far[7, 4] = 1e39
  with pytest.raises(UnsupRuleError, match=r"column 4 holds 1e\+39, too large"):
    model.transform(far)
  with pytest.raises(UnsupRuleError, match=r"column 'c4' holds 1e\+39"):
    check_size(far, far, [f"c{i}" for i in range(12)])


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix])
def test_sparse_is_dense(rule, kind, standardize):
  X = np.random.default_rng(1).poisson(0.3, size=(90, 12)).astype(float)
  expected = make(rule, steps=3, standardize=standardize).fit(X)
  found = make(rule, steps=3, standardize=standardize).fit(kind(X))
  np.testing.assert_array_equal(found.transform(kind(X)), expected.transform(X))
  parts = make(rule, standardize=standardize).partial_fit(kind(X[:50])).partial_fit(kind(X[50:]))
  whole = make(rule, standardize=standardize).partial_fit(X)
  np.testing.assert_allclose(parts.transform(X), whole.transform(X), rtol=1e-3, atol=1e-4)


def test_weights_that_diverge_are_an_error(rule, data):
  wild = dataclasses.replace(unsup_rule.pretrained(rule), schedule=InnerSchedule(1e30))
  with pytest.raises(UnsupRuleError, match="not finite after 10 steps; use fewer, or another"):
    make(wild).fit(data[0])


@pytest.mark.slow
def test_scikit_learns_own_checks(rule):
  results = check_estimator(make(rule, hidden=(6,), steps=3, batch_size=8), on_fail=None)
  failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
  assert not failed
  assert sum(r["status"] == "passed" for r in results) > 40
