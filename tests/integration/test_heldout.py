"""The held-out measurement, with an optimizer whose effect is known."""

import jax
import numpy as np
import pytest

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta.heldout import HeldOut


class Fade:
  """Multiplies W and b by theta at each step: 1 leaves the features as they are, 0 kills them."""

  def opt_fn(self, theta):
    return FadeOptimizer(theta)


class FadeOptimizer:
  """State: the parameters."""

  def __init__(self, theta):
    self.theta = theta

  def init(self, params):
    return params

  def get_params(self, state):
    return state

  def update(self, state, grad, loss, model_state):
    assert model_state.x_0.shape == (8, 64)
    return jax.tree.map(lambda leaf: leaf * self.theta, state)


SETTINGS = {
  "data": {"name": "digits", "classes": (0, 1, 7)},
  "hidden": (24,),
  "n_outputs": 16,
  "inner_steps": 2,
  "batch_size": 8,
  "seeds": 4,
  "draws": 3,
  "examples_per_class": 8,
}


@pytest.fixture(scope="module")
def measured():
  """Result by theta."""
  measure = HeldOut(**SETTINGS)
  return {theta: measure(Fade(), np.float32(theta)) for theta in (1.0, 0.0)}


def test_features_that_stay_keep_their_accuracy(measured):
  result = measured[1.0]
  assert set(result) == {"accuracy", "standard_error", "untrained_accuracy"}
  assert result["accuracy"] == result["untrained_accuracy"]
  assert 0.6 < result["accuracy"] <= 1.0  # zeros, ones and sevens are easy to tell
  assert 0 < result["standard_error"] < 0.2


def test_numbers_are_what_they_were(measured):
  """Recorded from an earlier version, whose curves are compared with."""
  assert measured[1.0]["accuracy"] == pytest.approx(0.7673611640930176, abs=1e-6)
  assert measured[1.0]["standard_error"] == pytest.approx(0.03466430678963661, abs=1e-6)


def test_dead_features_are_at_chance(measured):
  assert measured[0.0]["accuracy"] == pytest.approx(1 / 3)
  assert measured[0.0]["standard_error"] == pytest.approx(0, abs=1e-6)


def test_thetas_are_compared_on_the_same_models(measured):
  assert measured[0.0]["untrained_accuracy"] == measured[1.0]["untrained_accuracy"]


def test_same_theta_twice(measured):
  assert HeldOut(**SETTINGS)(Fade(), np.float32(1.0)) == measured[1.0]


def test_mean_and_standard_error_over_seeds(measured):
  """Of the accuracies of single base models, each an average over its draws."""
  held_out = HeldOut(**SETTINGS)
  keys = jax.random.split(jax.random.PRNGKey(0), 4)
  one = jax.jit(lambda key: held_out._measure(Fade(), np.float32(1.0), key)[1])
  accuracies = [float(one(key)) for key in keys]
  assert len(set(accuracies)) > 1
  assert measured[1.0]["accuracy"] == pytest.approx(sum(accuracies) / 4)
  squares = sum((a - sum(accuracies) / 4) ** 2 for a in accuracies)
  assert measured[1.0]["standard_error"] == pytest.approx((squares / 3 / 4) ** 0.5)


def test_one_base_model_has_no_standard_error():
  with pytest.raises(UnsupRuleError, match=r"HeldOut\.seeds is 1; a standard error needs at least"):
    HeldOut(**{**SETTINGS, "seeds": 1})


def test_all_layers(measured):
  """Of the very same base models; their digits are told apart better by all that they hold."""
  result = HeldOut(**SETTINGS, output="layers")(Fade(), np.float32(1.0))
  assert result["accuracy"] == result["untrained_accuracy"]
  assert result["accuracy"] > measured[1.0]["accuracy"] + 0.05
  with pytest.raises(
    UnsupRuleError, match=r"HeldOut\.output is 'all'; give 'embedding' or 'layers'"
  ):
    HeldOut(**SETTINGS, output="all")


def test_another_seed(measured):
  other = HeldOut(**SETTINGS, seed=1)(Fade(), np.float32(1.0))
  assert other["accuracy"] != measured[1.0]["accuracy"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"inner_steps": -1}, "HeldOut.inner_steps is -1; give at least 0"),
    ({"draws": 0}, "HeldOut.draws is 0; give at least 1"),
    ({"examples_per_class": 0}, "HeldOut.examples_per_class is 0; give at least 1"),
    ({"hidden": (0,)}, r"layer sizes \(64, 0, 16\) must all be at least 1"),
    ({"batch_size": 1}, "batch_size 1: batch normalisation needs at least 2 examples"),
    ({"test_split": "nope"}, "'digits' has no split 'nope'"),
  ],
)
def test_mistakes_are_found_without_measuring(changes, message):
  with pytest.raises(UnsupRuleError, match=message):
    HeldOut(**{**SETTINGS, **changes}).check(Fade(), np.float32(1.0))
