"""What `gradient_decay` makes of a gradient: less of what early inner steps do for late ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_helpers import SMALLEST, drawn_weights

from unsup_rule import compat  # noqa: F401  (first: makes the library importable)
from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.rule.mlp import MLP

from learned_optimization.optimizers import base as opt_base  # isort: skip

MODEL = MLP(9, (5,), 4)
BATCHES = np.random.default_rng(3).uniform(size=(3, 6, 9)).astype(np.float32)
PLAIN = {"learning_rate": 0.3}
COMPOSED = {"inner_optimizer": opt_base.SGDM(0.3, 0.5)}


def loss_of(options, decay, thetas):
  """A number of the embedding after three steps, each under a theta of its own: [3, ..]."""
  rule = UnsupervisedRule(**dataclasses.asdict(SMALLEST), **options, gradient_decay=decay)

  def step(state, theta_and_batch):
    theta, x = theta_and_batch
    optimizer = rule.opt_fn(theta)
    activations = MODEL.apply(optimizer.get_params(state), x)
    return optimizer.update(state, model_state=activations), None

  optimizer = rule.opt_fn(jax.tree.map(lambda leaf: leaf[0], thetas))
  state, _ = jax.lax.scan(step, optimizer.init(drawn_weights(MODEL, 0)), (thetas, BATCHES))
  embedding = MODEL.apply(optimizer.get_params(state), BATCHES[0]).layers[-1].x
  return jnp.sum(jnp.square(embedding))


@pytest.mark.parametrize("options", [PLAIN, COMPOSED], ids=["rule", "composed"])
def test_each_step_between_multiplies_the_gradient(options, smallest_theta):
  thetas = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(BATCHES)), smallest_theta)

  def measured(decay):
    loss, gradient = jax.jit(jax.value_and_grad(functools.partial(loss_of, options, decay)))(thetas)
    return loss, np.concatenate([np.reshape(g, (3, -1)) for g in jax.tree.leaves(gradient)], axis=1)

  exact_loss, exact = measured(1.0)
  loss, decayed = measured(0.5)
  np.testing.assert_allclose(loss, exact_loss, rtol=1e-6)
  largest = np.max(np.abs(exact), axis=1, keepdims=True)
  assert np.min(largest) > 1e-3
  factors = np.array([[0.25], [0.5], [1.0]])  # Two steps between, one, none.
  np.testing.assert_allclose(decayed / largest, factors * exact / largest, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decay", [-0.1, 1.5])
def test_bad_values(decay):
  with pytest.raises(UnsupRuleError, match=f"gradient_decay is {decay}; give a number from 0 to 1"):
    UnsupervisedRule(gradient_decay=decay)
