"""Types of numbers: an update keeps its parameters' dtype, whatever jax's settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_helpers import SIZES, rule_folder
from learned_optimization.learned_optimizers import base as lopt_base
from rule_helpers import SMALL, SMALLEST, drawn_theta, drawn_weights
from shipped import DEFAULT

import unsup_rule
from unsup_rule.cli.main import main
from unsup_rule.data.dataset import Dataset
from unsup_rule.meta import checkpoint
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


@pytest.mark.parametrize("command", [["train"], ["launch", "--workers=1"]])
def test_training_under_x64_is_refused_in_one_line(command, tmp_path, capsys):
  with jax.enable_x64():
    code = main([*command, "--config_file=smoke.gin", f"--train_log_dir={tmp_path}"])
  assert code == 2
  assert (
    capsys.readouterr()
    .err.splitlines()[-1]
    .startswith("unsup-rule: error: JAX_ENABLE_X64 is set, and learned_optimization's estimators")
  )


def test_files_of_float32_work_under_x64(tmp_path):
  folder = rule_folder(tmp_path / "run")
  like = jax.tree.map(np.asarray, drawn_theta(SIZES))
  x = np.random.default_rng(0).normal(size=(20, 5))

  def used(out):
    assert main(["export", f"--rule={folder}", f"--out={out}"]) == 0
    rules = [unsup_rule.pretrained(path) for path in (DEFAULT, folder, out)]
    theta = checkpoint.load_theta(folder, like)
    features = unsup_rule.UnsupervisedFeatures((4,), 8, rules[-1], steps=1, batch_size=10)
    return [[rule.theta for rule in rules], theta], features.fit_transform(x)

  before = used(tmp_path / "before.npz")
  with jax.enable_x64():
    found = used(tmp_path / "found.npz")
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}
  jax.tree.map(np.testing.assert_array_equal, found[0], before[0])
  np.testing.assert_allclose(found[1], before[1], rtol=0, atol=1e-3)


def _traced_task(key):
  images = np.random.default_rng(0).uniform(size=(12, 2, 2, 1)).astype(np.float32)
  dataset = Dataset.build("dots", "train", images, np.arange(12) % 3, ["a", "b", "c"], 1.0)
  sampler = unsup_rule.TaskSampler([unsup_rule.Source(dataset)], batch_size=4, examples_per_class=2)
  family = unsup_rule.MLPTaskFamily(sampler, hidden=(3,), n_outputs=SMALLEST.output_size)
  task = family.task_fn(family.sample(key))
  return jax.value_and_grad(task.loss)(task.init(key), key)


def _traced_step(key):
  shipped = unsup_rule.pretrained()
  wide = unsup_rule.MLP(n_inputs=3, hidden=(4,), n_outputs=32)
  params, x_BxN = wide.init(key), jnp.ones((4, 3))
  stepped = unsup_rule.step(shipped, params, x_BxN, 2)
  made = unsup_rule.optax_transformation(shipped)
  activations = wide.apply(params, x_BxN)
  updates, state = made.update(params, made.init(params), params, activations=activations)
  return stepped, updates, state


def _traced_optimizer(key):
  rule = unsup_rule.UnsupervisedRule(**dataclasses.asdict(SMALLEST), decay_steps=5.0)
  optimizer = rule.opt_fn(rule.init(key))
  params = SMALL.init(key)
  activations = SMALL.apply(params, jnp.ones((4, 3)))
  return optimizer.update(optimizer.init(params), model_state=activations)


@pytest.mark.parametrize("use", [_traced_task, _traced_step, _traced_optimizer])
def test_uses_of_the_public_names_promote_nothing(use):
  """Promotion is refused when a program is traced; nothing is compiled here."""
  with jax.numpy_dtype_promotion("strict"):
    found = jax.eval_shape(use, jax.random.PRNGKey(0))
  assert all(leaf.dtype != "float64" for leaf in jax.tree.leaves(found))
