"""Wrong calls of the Python interface say so in one line, and change nothing of the caller's."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_helpers import SMALLEST, drawn_weights

import unsup_rule
from unsup_rule import UnsupervisedFeatures, storage
from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.probe import RidgeProbe, Targets
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import Source
from unsup_rule.weights.archive import Use
from unsup_rule.weights.pretrained import Pretrained

TINY = MLP(5, (6,), SMALLEST.output_size)
X = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def rule(smallest_theta):
  return Pretrained(smallest_theta, InnerSchedule(0.04), Use(), {}, "small", "")


@pytest.fixture(scope="module")
def params():
  return drawn_weights(TINY, 0)


@pytest.mark.parametrize(
  ("x", "shape"), [(X[0], r"\[5\]"), (X[:, 1:], r"\[8, 4\]"), (X[0, 0], r"\[\]")]
)
def test_inputs_of_another_shape(rule, params, x, shape):
  message = rf"x is {shape}; give a batch of flattened examples, \[B, 5\]"
  with pytest.raises(UnsupRuleError, match=message):
    unsup_rule.step(rule, params, x)
  with pytest.raises(UnsupRuleError, match=message):
    TINY.features(params, jnp.asarray(x))


def test_a_step_takes_what_is_no_jax_array(rule, params):
  expected = unsup_rule.step(rule, params, jnp.asarray(X))
  jax.tree.map(np.testing.assert_array_equal, unsup_rule.step(rule, params, X.tolist()), expected)


def test_weights_and_rules_that_are_none(rule, params):
  whole = [tuple(jnp.ones(a.shape, int) for a in layer) for layer in params.layers]
  with pytest.raises(UnsupRuleError, match="params holds int32; give weights in floating point"):
    unsup_rule.step(rule, whole, X)
  with pytest.raises(UnsupRuleError, match="layer 1 has 2 arrays; give W, b and V"):
    unsup_rule.step(rule, [layer[:2] for layer in params.layers], X)
  with pytest.raises(
    UnsupRuleError, match=r"rule is str; give what unsup_rule\.pretrained returns"
  ):
    unsup_rule.step("unsup_1", params, X)


@pytest.mark.parametrize(
  "sizes", [(5, (6.5,), 4), (5, "66", 4), (5, 6, 4), (5.0, (6,), 4), (5, (6,), 4.0)]
)
def test_layer_sizes_are_whole_numbers(sizes):
  with pytest.raises(UnsupRuleError, match="must be a whole number, some, and one"):
    MLP(*sizes)


def test_models_of_a_tree_are_told_apart_by_their_places(rule, params):
  other = drawn_weights(TINY, 1)
  models = {"a": other, "b": params}
  made = {name: TINY.apply(model, jnp.asarray(X)) for name, model in models.items()}
  transformation = unsup_rule.scale_by_rule(rule)
  state = transformation.init(models)
  with pytest.raises(UnsupRuleError, match="in trees of different forms"):
    transformation.update(models, state, models, activations=[made["b"], made["a"]])
  with pytest.raises(UnsupRuleError, match="update got no params"):
    transformation.update(models, state)
  together, _ = transformation.update(models, state, models, activations=made)
  for name, model in models.items():
    alone, _ = transformation.update(model, state, model, activations=made[name])
    jax.tree.map(np.testing.assert_array_equal, together[name], alone)


def test_halves_of_a_probe_may_differ_in_size():
  """Each error is a mean over its own half."""
  f, y = np.random.default_rng(0).normal(size=(18, 3)).astype(np.float32), np.arange(12) % 3
  probe = RidgeProbe(normalize_y_hat=False)
  found = probe(jnp.asarray(f), Targets(jnp.asarray(y)), Targets(jnp.asarray(y[:6])), 3)
  test = Targets(jnp.asarray(y[:6]))
  errors = jnp.sum(jnp.square(found.logit_test - probe.encode(test, 3)), axis=1)
  np.testing.assert_allclose(found.mse_test, errors.mean(), rtol=1e-5)


def test_a_data_set_leaves_the_caller_s_arrays_alone():
  images, labels = np.zeros((4, 1, 1, 2), np.float32), np.zeros(4, np.int32)
  made = Dataset("a", "train", images, labels, ("one",), 1.0)
  assert images.flags.writeable
  assert labels.flags.writeable
  assert not made.images.flags.writeable


def test_weights_of_sources_are_positive():
  dataset = unsup_rule.load("digits", "train")
  for weight in (0, -1.0, float("nan")):
    with pytest.raises(UnsupRuleError, match=r"digits: weight is .*; give a positive number"):
      Source(dataset, weight=weight)
  with pytest.raises(UnsupRuleError, match="examples_per_class is 0; give at least 1"):
    TaskSampler([Source(dataset)], examples_per_class=0)


def test_a_fit_that_fails_uses_up_no_random_numbers():
  random = np.random.RandomState(0)
  features = UnsupervisedFeatures((4,), steps=2, batch_size=4, random_state=random)
  with pytest.raises(ValueError, match="Input"):
    features.fit(np.full((8, 5), np.inf))
  features.set_params(standardize=False)
  with pytest.raises(UnsupRuleError):
    features.fit(X * np.float32(1e30))
  np.testing.assert_array_equal(random.get_state()[1], np.random.RandomState(0).get_state()[1])
  first = features.fit_transform(X)
  expected = UnsupervisedFeatures((4,), steps=2, batch_size=4, standardize=False)
  np.testing.assert_array_equal(first, expected.fit_transform(X))
  # Another fit goes on with the caller's generator, as scikit-learn's estimators do.
  assert np.abs(features.fit_transform(X) - first).max() > 1e-3


def test_a_device_is_not_overwritten(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UnsupRuleError, match="pipe: it is there, and no file"):
    storage.write_text(tmp_path / "pipe", "text")
  assert not (tmp_path / "pipe").is_file()
  assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
