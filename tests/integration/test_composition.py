"""The rule's change as the gradient of another optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.optimizers import base as opt_base

import unsup_rule
from unsup_rule.cli import main as cli
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta.checkpoint import load_theta
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.rule.mlp import MLP

KEY = jax.random.PRNGKey(0)
SIZES = {
  "output_size": 4,
  "top_delta_size": 3,
  "top_delta_layers": 0,
  "compute_h_size": 5,
  "compute_h_layers": 0,
  "delta_dim": 3,
  "num_grad_channels": 2,
}
MODEL = MLP(9, (5,), 4)

# HEAD has moved the hand-made ones.
if unsup_rule.compat.IS_HEAD:
  from learned_optimization.optimizers import optax_opts
else:
  optax_opts = opt_base


@pytest.fixture(scope="module")
def theta():
  """With noise, so that no bias or offset is zero."""
  rng = np.random.default_rng(0)
  drawn = UnsupervisedRule(**SIZES).init(KEY)
  return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), drawn)


def trained(optimizer, steps=2, **update):
  """phi before, after each step, and each step's gradient old + change by the bare rule."""
  step = jax.jit(lambda s, a: optimizer.update(s, model_state=a, **update))
  state = optimizer.init(MODEL.init(KEY), num_steps=steps)
  seen = [optimizer.get_params(state)]
  for i in range(steps):
    x = jax.random.uniform(jax.random.fold_in(KEY, i), (6, 9))
    state = step(state, MODEL.apply(seen[-1], x))
    seen.append(optimizer.get_params(state))
  return seen


def gradients(theta, seen):
  """old + change at each phi of `seen` but the last, from the bare rule."""
  rule = UnsupervisedRule(**SIZES).opt_fn(theta)
  for i, phi in enumerate(seen[:-1]):
    x = jax.random.uniform(jax.random.fold_in(KEY, i), (6, 9))
    yield jax.tree.map(jnp.add, phi, jax.jit(rule.change)(phi, MODEL.apply(phi, x)))


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
  composed = {"rule": theta, "step": rule.init(KEY)["step"]}
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


def test_a_learned_step_is_meta_trained_along():
  rule = UnsupervisedRule(**SIZES, inner_optimizer=lopt_base.LearnableAdam(initial_lr=0.05))
  theta = rule.init(KEY)
  assert set(theta) == {"rule", "step"}
  x = jax.random.uniform(KEY, (6, 9))

  @jax.jit
  @jax.grad
  def meta_gradient(theta):
    optimizer = rule.opt_fn(theta)
    state = optimizer.init(MODEL.init(KEY), num_steps=2)

    def step(state, _):
      activations = MODEL.apply(optimizer.get_params(state), x)
      return optimizer.update(state, model_state=activations), None

    state, _ = jax.lax.scan(step, state, length=2)
    return jnp.sum(jnp.square(MODEL.features(optimizer.get_params(state), x)))

  gradient = meta_gradient(theta)
  for part in ("rule", "step"):
    leaves = jax.tree.leaves(gradient[part])
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
