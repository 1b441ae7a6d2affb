"""Adam's two step sizes for theta."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_rule.plugin import rule as learned_optimizer
from unsup_rule.plugin.adam import RuleAdam


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
