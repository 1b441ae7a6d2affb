"""The rule's change as the gradient of another optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.optimizers import base as opt_base
from rule_helpers import SMALLEST, drawn_weights

import unsup_rule
from unsup_rule.cli import main as cli
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta.checkpoint import load_theta
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.rule.mlp import MLP

KEY = jax.random.PRNGKey(0)
SIZES = dataclasses.asdict(SMALLEST)
MODEL = MLP(9, (5,), 4)

# HEAD has moved the hand-made ones.
if unsup_rule.compat.IS_HEAD:
  from learned_optimization.optimizers import optax_opts
else:
  optax_opts = opt_base


BATCHES = np.random.default_rng(3).uniform(size=(2, 6, 9)).astype(np.float32)


@pytest.fixture(scope="module")
def theta(smallest_theta):
  """With noise, so that no bias or offset is zero."""
  return smallest_theta


def trained(optimizer, **update):
  """phi before and after each step."""

  @jax.jit
  def step(state, x):
    activations = MODEL.apply(optimizer.get_params(state), x)
    return optimizer.update(state, model_state=activations, **update)

  state = optimizer.init(drawn_weights(MODEL, 0), num_steps=len(BATCHES))
  seen = [optimizer.get_params(state)]
  for x in BATCHES:
    state = step(state, x)
    seen.append(optimizer.get_params(state))
  return seen


@jax.jit
def gradient(theta, phi, x):
  """old + change, from the bare rule."""
  change = UnsupervisedRule(**SIZES).opt_fn(theta).change(phi, MODEL.apply(phi, x))
  return jax.tree.map(jnp.add, phi, change)


def gradients(theta, seen):
  """old + change at each phi of `seen` but the last."""
  return [gradient(theta, phi, x) for phi, x in zip(seen[:-1], BATCHES, strict=True)]


def assert_close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_sgd_is_the_rule_itself(theta):
  rule = UnsupervisedRule(**SIZES, learning_rate=0.3).opt_fn(theta)
  composed = UnsupervisedRule(**SIZES, inner_optimizer=optax_opts.SGD(0.3)).opt_fn(theta)
  plain, other = trained(rule), trained(composed)
  assert_close(plain[-1], other[-1], rtol=1e-5, atol=1e-6)
  moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), plain[0], plain[-1])
  assert min(jax.tree.leaves(moved)) > 0.01


def test_momentum_remembers_the_changes_before(theta):
  composed = UnsupervisedRule(**SIZES, inner_optimizer=optax_opts.SGDM(0.3, 0.9)).opt_fn(theta)
  seen = trained(composed)
  first, second = gradients(theta, seen)
  by_hand = jax.tree.map(lambda p, a, b: p - 0.3 * a - 0.3 * (0.9 * a + b), seen[0], first, second)
  assert_close(seen[-1], by_hand, rtol=1e-4, atol=1e-5)


def test_adam_gets_old_plus_change(theta):
  rule = UnsupervisedRule(**SIZES, inner_optimizer=lopt_base.LearnableAdam(initial_lr=0.05))
  composed = {"rule": theta, "step": rule.inner_optimizer.init(KEY)}
  seen = trained(rule.opt_fn(composed))
  reference = optax.adam(0.05, eps_root=1e-8)
  phi, state = seen[0], reference.init(seen[0])
  for gradient in gradients(theta, seen):
    updates, state = reference.update(gradient, state)
    phi = optax.apply_updates(phi, updates)
  assert_close(seen[-1], phi, rtol=1e-3, atol=1e-4)


def test_a_hand_made_step_leaves_theta_as_it_is():
  plain, composed = (
    UnsupervisedRule(**SIZES),
    UnsupervisedRule(**SIZES, inner_optimizer=optax_opts.Adam()),
  )
  jax.tree.map(np.testing.assert_array_equal, plain.init(KEY), composed.init(KEY))


def test_a_learned_step_is_meta_trained_along(theta):
  rule = UnsupervisedRule(**SIZES, inner_optimizer=lopt_base.LearnableAdam(initial_lr=0.05))
  assert set(rule.init(KEY)) == {"rule", "step"}
  composed = {"rule": theta, "step": rule.inner_optimizer.init(KEY)}
  x = BATCHES[0]

  @jax.jit
  @jax.grad
  def meta_gradient(theta):
    optimizer = rule.opt_fn(theta)
    state = optimizer.init(drawn_weights(MODEL, 0), num_steps=2)

    def step(state, _):
      activations = MODEL.apply(optimizer.get_params(state), x)
      return optimizer.update(state, model_state=activations), None

    state, _ = jax.lax.scan(step, state, length=2)
    return jnp.sum(jnp.square(MODEL.features(optimizer.get_params(state), x)))

  found = meta_gradient(composed)
  for part in ("rule", "step"):
    leaves = jax.tree.leaves(found[part])
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any(np.any(leaf) for leaf in leaves), part


class LossSpy(optax_opts.SGD):
  """Moves everything by the loss it is shown."""

  def update(self, opt_state, grad, loss=None, model_state=None, key=None, **kwargs):
    return super().update(opt_state, jax.tree.map(lambda g: g + loss, grad), loss=loss)


def test_no_loss_of_the_task_reaches_the_step(theta):
  rule = UnsupervisedRule(**SIZES, inner_optimizer=LossSpy(0.3)).opt_fn(theta)
  without = trained(rule)[-1]
  told = trained(rule, loss=jnp.float32(1.0), grad=jnp.nan)[-1]
  jax.tree.map(np.testing.assert_array_equal, without, told)


def test_embedding_of_another_width(theta):
  optimizer = UnsupervisedRule(**SIZES, inner_optimizer=optax_opts.SGD(0.1)).opt_fn(theta)
  with pytest.raises(UnsupRuleError, match="6 units but this theta was made for 4"):
    optimizer.init(MLP(9, (5,), 6).init(KEY))


def test_a_class_is_no_step():
  with pytest.raises(UnsupRuleError, match="give an instance of an Optimizer or LearnedOptimizer"):
    UnsupervisedRule(inner_optimizer=lopt_base.LearnableAdam)


@pytest.mark.slow
def test_meta_trains_from_gin(tmp_path):
  bindings = [
    "UnsupervisedRule.inner_optimizer = @LearnableAdam()",
    "LearnableAdam.initial_lr = 0.003",
    "UnsupervisedRule.top_delta_size = 4",
    "UnsupervisedRule.compute_h_size = 4",
    "UnsupervisedRule.delta_dim = 2",
    "run_train.num_steps = 2",
    "trainer.heldout_fn = None",
  ]
  run = tmp_path / "run"
  command = ["train", "--config_file=gin/smoke.gin", f"--train_log_dir={run}"]
  assert cli.main(command + [f"--gin_bindings={binding}" for binding in bindings]) == 0
  step = lopt_base.LearnableAdam(initial_lr=0.003)
  sizes = {"top_delta_size": 4, "compute_h_size": 4, "delta_dim": 2}
  before = UnsupervisedRule(**sizes, inner_optimizer=step).init(KEY)
  after = load_theta(run, before)
  assert float(after["step"]["log_lr"]) != float(before["step"]["log_lr"])
