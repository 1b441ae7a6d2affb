"""Properties over drawn inputs: types of parameters and numbers, how rows are cut into calls."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_helpers import SIZES
from hypothesis import strategies as st
from learned_optimization.learned_optimizers import base as lopt_base
from rule_helpers import SMALL, SMALLEST, drawn_theta
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from unsup_rule import UnsupervisedFeatures
from unsup_rule.plugin.rule import ComposedOptimizer, RuleOptimizer
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.weights.archive import Archive, Use

few = hypothesis.settings(max_examples=10, deadline=None, derandomize=True, database=None)

not_counts = st.one_of(
  st.text(), st.floats(allow_nan=True), st.integers(max_value=0), st.lists(st.text(), min_size=1)
)


wrong = {
  **dict.fromkeys(("hidden", "batch_size", "n_features"), not_counts),
  "steps": not_counts.filter(lambda value: value != 0),
  "standardize": st.one_of(st.text(), st.floats(), st.integers(min_value=2)),
  "nonlinearity": st.one_of(st.text(max_size=3), st.integers(), st.none()),
  "rule": st.one_of(st.integers(), st.floats(), st.lists(st.text())),
  "random_state": st.one_of(st.text(), st.floats(), st.integers(max_value=-1)),
}


@pytest.mark.parametrize("name", wrong)
@few
@hypothesis.given(data=st.data())
def test_a_parameter_of_another_type_is_refused_before_any_work(name, data):
  value = data.draw(wrong[name])
  features = UnsupervisedFeatures(**{name: value})
  with pytest.raises(ValueError, match=name):
    features.fit(np.zeros((20, 3)))
  with pytest.raises(NotFittedError):
    check_is_fitted(features)


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
  path = tmp_path_factory.mktemp("rule") / "small.npz"
  theta = jax.tree.map(np.asarray, drawn_theta(SIZES, 0))
  Archive(theta, InnerSchedule(0.01, 50.0), Use(10, 16), {}).write(path)
  return str(path)


@few
@hypothesis.given(
  cuts=st.sets(st.sampled_from([2, 15, 16, 17, 33, 49]), max_size=4), standardize=st.booleans()
)
def test_any_split_of_rows_into_calls_gives_the_same_embedding(rule, cuts, standardize):
  X_NxD = np.random.default_rng(1).uniform(size=(50, 20))

  def fitted(cuts):
    model = UnsupervisedFeatures((6, 6), 8, rule, standardize=standardize)
    for start, stop in zip([0, *cuts], [*cuts, len(X_NxD)], strict=True):
      model.partial_fit(X_NxD[start:stop])
    return model

  whole, parts = fitted([]), fitted(sorted(cuts))
  assert parts.n_steps_ == whole.n_steps_ == 3
  np.testing.assert_allclose(parts.transform(X_NxD), whole.transform(X_NxD), rtol=1e-3, atol=1e-4)


schedules = st.builds(
  InnerSchedule,
  st.floats(1e-3, 1.0),
  st.one_of(st.none(), st.floats(1.0, 100.0)),
  hidden_bias=st.floats(0, 1),
  embedding_bias=st.floats(0, 1),
  shuffle_inputs=st.booleans(),
)


@few
@hypothesis.given(
  dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
  x64=st.booleans(),
  composed=st.booleans(),
  schedule=schedules,
)
def test_an_update_can_be_the_carry_of_a_scan(dtype, x64, composed, schedule):
  """Every leaf keeps its shape and type, whatever the schedule; nothing is compiled."""

  def update(params):
    optimizer = RuleOptimizer(SMALLEST, drawn_theta(SMALLEST), schedule)
    if composed:
      adam = lopt_base.LearnableAdam()
      optimizer = ComposedOptimizer(optimizer, adam.opt_fn(adam.init(jax.random.PRNGKey(0))))
    state = optimizer.init(params)
    x_BxN = jnp.zeros((4, 3), dtype)
    return state, optimizer.update(state, model_state=SMALL.apply(params, x_BxN))

  with jax.enable_x64(x64):
    given = jax.eval_shape(SMALL.init, jax.random.PRNGKey(0))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), given)
    before, after = jax.eval_shape(update, params)
  assert jax.tree.structure(before) == jax.tree.structure(after)
  for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
