"""Adam's two step sizes for theta, their schedule, and the average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin import rule as learned_optimizer
from unsup_rule.plugin.adam import RuleAdam, average_of, schedule


@pytest.mark.parametrize("composed", [False, True])
def test_coefficients_move_at_their_own_rate(composed):
  theta = learned_optimizer.UnsupervisedRule(
    top_delta_size=4, compute_h_size=4, delta_dim=4, output_size=8
  ).init(jax.random.PRNGKey(0))
  theta = {"rule": theta, "step": {"w": jnp.ones(3)}} if composed else theta
  opt = RuleAdam(learning_rate=1e-3, coefficient_learning_rate=0.25)
  state = opt.init(theta)
  state = opt.update(state, jax.tree_util.tree_map(jnp.ones_like, theta), jnp.float32(1))
  moved = jax.tree_util.tree_map(lambda new, old: old - new, opt.get_params(state), theta)
  rule = moved["rule"] if composed else moved
  # Adam's first step is as long as its step size.
  coefficients = rule.pop("forward_weight_readout_coeffs")
  np.testing.assert_allclose(coefficients["w"], np.full((12, 1), 0.25), rtol=1e-5)
  np.testing.assert_allclose(coefficients["b"], [0.25], rtol=1e-5)
  for leaf in jax.tree_util.tree_leaves(moved):
    np.testing.assert_allclose(leaf, np.full(leaf.shape, 1e-3), rtol=1e-3)
  assert int(state.iteration) == 1


def test_step_sizes_grow_and_fall():
  rates = schedule(0.8, warmup_steps=3, decay_steps=7, final_fraction=0.25)
  # A quarter of the way at a time; then along 0.2 + 0.6 (1 + cos(pi k / 4)) / 2.
  expected = [0.2, 0.4, 0.6, 0.8, 0.7121320, 0.5, 0.2878680, 0.2, 0.2]
  np.testing.assert_allclose([float(rates(t)) for t in range(9)], expected, rtol=1e-6)
  assert schedule(0.8, 0, 0, 0.0) == 0.8
  np.testing.assert_allclose(
    [float(schedule(0.8, 1, 0, 0.0)(t)) for t in range(3)], [0.4, 0.8, 0.8]
  )


def test_the_average_follows_theta():
  opt = RuleAdam(learning_rate=0.5, averaging=0.25)
  theta = {"net": {"w": jnp.zeros(1)}}
  state, found = opt.init(theta), []
  for _ in range(3):
    state = opt.update(state, {"net": {"w": jnp.ones(1)}}, jnp.float32(0))
    found.append((float(opt.get_params(state)["net"]["w"][0]), average_of(state)["net"]["w"][0]))
  # Adam moves by its step size; decays are 1/10, 2/11 and then 1/4.
  np.testing.assert_allclose([a for a, _ in found], [-0.5, -1.0, -1.5], rtol=1e-5)
  np.testing.assert_allclose([b for _, b in found], [-0.45, -0.9, -1.35], rtol=1e-5)
  assert average_of(RuleAdam().init(theta)) is None


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"warmup_steps": 5, "decay_steps": 5}, "decay_steps is 5; give more than the 5"),
    ({"learning_rate": -1e-3}, r"RuleAdam\.learning_rate is -0\.001; give 0 or more"),
    ({"warmup_steps": -1}, "warmup_steps is -1; give 0 or more"),
    ({"decay_steps": -5}, "decay_steps is -5; give 0 or more"),
    ({"final_fraction": -0.5}, "final_fraction is -0.5; give 0 or more"),
    ({"beta2": 1}, "beta2 is 1; give a number from 0 to below 1"),
    ({"averaging": 1.0}, r"averaging is 1\.0; give a number from 0 to below 1"),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(UnsupRuleError, match=message):
    RuleAdam(**options)
