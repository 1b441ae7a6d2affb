"""Types of numbers: an update keeps its parameters' dtype, whatever jax's settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization.learned_optimizers import base as lopt_base
from rule_helpers import SMALL, SMALLEST, drawn_theta, drawn_weights

from unsup_rule.cli.main import main
from unsup_rule.plugin.rule import ComposedOptimizer, RuleOptimizer
from unsup_rule.rule.schedule import InnerSchedule

FADING = InnerSchedule(0.1, 5.0, hidden_bias=0.5, embedding_bias=2.0, shuffle_inputs=True)


def _rule():
  return RuleOptimizer(SMALLEST, drawn_theta(SMALLEST), FADING)


def _composed():
  adam = lopt_base.LearnableAdam()
  return ComposedOptimizer(_rule(), adam.opt_fn(adam.init(jax.random.PRNGKey(0))))


def _after_two_steps(optimizer, dtype):
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), drawn_weights(SMALL, 0))
  x_BxN = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 3)), dtype)

  def step(state, _):
    activations = SMALL.apply(optimizer.get_params(state), x_BxN)
    return optimizer.update(state, model_state=activations), None

  state, _ = jax.lax.scan(step, optimizer.init(params), None, length=2)
  return optimizer.get_params(state)


@pytest.mark.parametrize(
  ("dtype", "x64"),
  [
    ("bfloat16", False),
    ("float32", False),
    ("bfloat16", True),
    ("float32", True),
    ("float64", True),
  ],
)
@pytest.mark.parametrize("make", [_rule, _composed])
def test_an_update_keeps_its_parameters_dtype(make, dtype, x64):
  expected = _after_two_steps(_rule(), "float32") if make is _rule else None
  with jax.enable_x64(x64):
    found = _after_two_steps(make(), dtype)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {dtype}
  if expected is not None and dtype != "bfloat16":
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_nothing_is_promoted_implicitly(strict):
  found = _after_two_steps(_rule(), "float32")
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_training_under_x64_is_refused_in_one_line(tmp_path, capsys):
  with jax.enable_x64():
    code = main(["train", "--config_file=smoke.gin", f"--train_log_dir={tmp_path}"])
  assert code == 2
  assert (
    capsys.readouterr()
    .err.splitlines()[-1]
    .startswith("unsup-rule: error: JAX_ENABLE_X64 is set, and learned_optimization's estimators")
  )
