"""The rule and its task behind the library's own interfaces, with the library's own helpers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization import summary
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.learned_optimizers import mlp_lopt
from learned_optimization.optimizers import base as opt_base
from learned_optimization.outer_trainers import gradient_learner, truncation_schedule
from learned_optimization.outer_trainers import test_utils as trainer_test_utils
from learned_optimization.tasks import test_utils as task_test_utils
from rule_helpers import SMALLEST, drawn_weights

from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import estimators
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.plugin.task import MLPTaskFamily
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.step import step
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import Source

KEY = jax.random.PRNGKey(0)


@pytest.fixture(scope="module")
def family():
  """Three classes of 3x3 images: a bright row each, and noise."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(3), 20)
  images = rng.integers(0, 100, (60, 3, 3, 1))
  images[np.arange(60), labels] += 150
  dataset = Dataset.build(
    "rows", "train", images.astype(np.uint8), labels, ["a", "b", "c"], 1 / 255
  )
  return MLPTaskFamily(TaskSampler([Source(dataset)], 8, examples_per_class=4), (5,), 4)


@pytest.fixture(scope="module")
def task(family):
  return family.task_fn(jax.jit(family.sample)(KEY))


@pytest.fixture(scope="module")
def rule():
  return UnsupervisedRule(**dataclasses.asdict(SMALLEST), learning_rate=0.3)


@pytest.fixture(scope="module")
def theta(smallest_theta):
  """With noise, so that no bias or offset is zero."""
  return smallest_theta


def inner_step(task, optimizer):
  """As the library's truncated step does it."""

  def step(state, key):
    (loss, model_state), grad = jax.value_and_grad(task.loss_with_state, has_aux=True)(
      optimizer.get_params(state), optimizer.get_state(state), key, ()
    )
    return optimizer.update(state, grad, loss=loss, model_state=model_state, key=key), loss

  return step


@pytest.fixture(scope="module")
def before_and_after(rule, theta, task):
  """One update: the state before, the activations, the state after."""
  optimizer = rule.opt_fn(theta)
  params, model_state = jax.jit(task.init_with_state)(KEY)
  state = optimizer.init(params, model_state)
  _, activations = jax.jit(task.loss_with_state)(params, model_state, KEY)
  after = jax.jit(lambda state, a: optimizer.update(state, model_state=a))(state, activations)
  return state, activations, after


def moved(state, other):
  pairs = zip(
    jax.tree_util.tree_leaves(state.params), jax.tree_util.tree_leaves(other.params), strict=True
  )
  return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)


@pytest.mark.slow
def test_library_smoketest_of_the_task_family(family):
  task_test_utils.smoketest_task_family(family)


def test_initial_model_state_has_the_shape_of_activations(task):
  params, zeros = jax.jit(task.init_with_state)(KEY)
  _, activations = jax.jit(task.loss_with_state)(params, zeros, KEY)
  assert jax.tree_util.tree_map(jnp.shape, zeros) == jax.tree_util.tree_map(jnp.shape, activations)
  assert not any(np.any(leaf) for leaf in jax.tree_util.tree_leaves(zeros))


def test_the_library_can_summarise_inner_parameters(task):
  params = task.init(KEY)
  names = dict(params.items())
  assert list(names) == [f"layers_{i}/{leaf}" for i in range(2) for leaf in ("w", "b", "v")]
  assert {id(leaf) for leaf in names.values()} == {id(x) for x in jax.tree_util.tree_leaves(params)}
  summary.summarize_inner_params(params)


def test_loss_is_the_probe_on_labels_and_activations_are_of_the_unlabelled_batch(task):
  params = drawn_weights(task.mlp, 0)
  loss, activations = jax.jit(task.loss_with_state)(params, None, KEY)
  np.testing.assert_array_equal(activations.x_0, jax.jit(task.unlabelled)(KEY)["x"])
  loss_of = jax.jit(task.loss)
  np.testing.assert_array_equal(loss, loss_of(params, KEY))

  @jax.jit
  def with_aux(params, activations):
    loss, state, aux = task.loss_with_state_and_aux(params, activations, KEY)
    assert state is activations
    return loss, aux["loss"]

  meta_loss, told = with_aux(params, activations)
  assert meta_loss == loss == told
  # Data from outside takes the place of what is drawn. Two programs of XLA would round differently.
  drawn = task.labelled(jax.random.PRNGKey(1))
  other = dict(zip(("probe_x", "train", "test"), drawn, strict=True))
  assert task.loss(params, KEY, other) == task.loss(params, jax.random.PRNGKey(1))


def test_the_probe_may_read_all_layers(family):
  """3x3 inputs, of variance 1 on average, five units and the embedding of four."""
  wide = MLPTaskFamily(family.sampler, (5,), 4, output="layers")
  task = wide.task_fn(jax.jit(wide.sample)(KEY))
  params = drawn_weights(task.mlp, 0)
  x, train, test = jax.jit(task.labelled)(KEY)
  hidden, embedding = (np.asarray(layer.x) for layer in task.mlp.apply(params, x).layers)
  inputs = (x - np.mean(x, axis=0)) / np.sqrt(np.mean(np.var(x, axis=0)))
  features = np.concatenate([inputs, hidden, embedding], axis=1)
  expected = task.probe(jnp.asarray(features), train, test, 3)
  assert features.shape == (24, 18)
  measured = jax.jit(task.measure)(params, KEY)
  np.testing.assert_allclose(measured.loss, expected.loss, rtol=1e-4)
  np.testing.assert_allclose(measured.ridge_w, expected.ridge_w, rtol=0, atol=1e-4)


def test_embedding_of_another_width(rule, theta, family):
  wide = MLPTaskFamily(family.sampler, (5,), 6)
  params = drawn_weights(wide.mlp, 0)
  message = "the embedding has 6 units but this theta was made for 4; use n_outputs=4"
  with pytest.raises(UnsupRuleError, match=message):
    rule.opt_fn(theta).init(params)


@pytest.mark.parametrize("model_state", [None, (), {"layers_0": jnp.ones(3)}])
def test_no_activations(model_state, rule, theta, task):
  optimizer = rule.opt_fn(theta)
  state = optimizer.init(jax.jit(task.init)(KEY))
  with pytest.raises(UnsupRuleError, match="no activations in model_state; train an MLPTask"):
    optimizer.update(state, model_state=model_state)


def test_activations_of_another_model(rule, theta, task):
  optimizer, other = rule.opt_fn(theta), MLP(9, (6,), 4)
  params = drawn_weights(task.mlp, 0)
  activations = jax.jit(other.apply)(drawn_weights(other, 0), jnp.ones((8, 9)))
  with pytest.raises(AssertionError, match=r"shape"):
    optimizer.update(optimizer.init(params), model_state=activations)
  with pytest.raises(UnsupRuleError, match=r"two architectures; pass MLP\.apply"):
    step(rule.sizes, theta, rule.schedule, params, activations, 0)


def test_gradient_and_loss_are_ignored(rule, theta, before_and_after):
  state, activations, after = before_and_after
  assert moved(state, after) > 0.01
  optimizer = rule.opt_fn(theta)
  nan = jax.tree_util.tree_map(lambda x: x * jnp.nan, state.params)

  @jax.jit
  def update(state, activations, grad, loss, key):
    return optimizer.update(state, grad, loss=loss, model_state=activations, key=key)

  same = update(state, activations, nan, jnp.nan, KEY)
  jax.tree_util.tree_map(np.testing.assert_array_equal, same, after)


class HalfStep(opt_base.Optimizer):
  """Goes half the way that the optimizer inside would."""

  def __init__(self, opt):
    self.opt = opt

  def init(self, *args, **kwargs):
    return self.opt.init(*args, **kwargs)

  def update(self, opt_state, *args, **kwargs):
    new = self.opt.update(opt_state, *args, **kwargs)
    middle = jax.tree_util.tree_map(lambda a, b: (a + b) / 2, opt_state.params, new.params)
    return new.replace(params=middle)


def test_wrapped_by_the_library(rule, theta, before_and_after):
  state, activations, after = before_and_after
  wrapped = lopt_base.wrap_learned_opt(rule, HalfStep)
  jax.tree_util.tree_map(np.testing.assert_array_equal, wrapped.init(KEY), rule.init(KEY))
  optimizer = wrapped.opt_fn(theta)
  half = jax.jit(lambda state, a: optimizer.update(state, None, loss=None, model_state=a))(
    optimizer.init(state.params), activations
  )
  np.testing.assert_allclose(moved(state, half), moved(state, after) / 2, rtol=1e-4)


def test_unused_gradient_costs_nothing(rule, theta, task):
  """A step by the library differentiates the base model; compiled, that is gone."""
  optimizer = rule.opt_fn(theta)
  state = optimizer.init(jax.jit(task.init)(KEY))

  def bare(state, key):
    _, activations = task.loss_with_state(state.params, None, key)
    return optimizer.update(state, model_state=activations)

  def flops(function):
    return jax.jit(function).lower(state, KEY).compile().cost_analysis()["flops"]

  library_step = inner_step(task, optimizer)
  assert flops(lambda state, key: library_step(state, key)[0]) <= 1.02 * flops(bare)


def train(task, optimizer, steps):
  """Losses on one batch over and over."""

  @jax.jit
  def run(params):
    state = optimizer.init(params, None, num_steps=steps)
    return jax.lax.scan(inner_step(task, optimizer), state, jnp.stack([KEY] * steps))[1]

  return np.asarray(run(jax.jit(task.init)(KEY)))


class WithoutState(opt_base.Optimizer):
  """Starts from activations, as a truncation does, so that a scan's carry keeps its type."""

  def __init__(self, opt, model_state):
    self.opt = opt
    self.model_state = model_state

  def init(self, params, model_state=None, num_steps=None, key=None):
    return self.opt.init(params, self.model_state, num_steps=num_steps, key=key)

  def get_params(self, state):
    return self.opt.get_params(state)

  def get_state(self, state):
    return self.opt.get_state(state)

  def update(self, *args, **kwargs):
    return self.opt.update(*args, **kwargs)


def test_learnable_adam_trains_the_task(task):
  lopt = lopt_base.LearnableAdam()
  optimizer = WithoutState(lopt.opt_fn(lopt.init(KEY)), task.init_with_state(KEY)[1])
  losses = train(task, optimizer, 20)
  assert losses[-1] < losses[0] - 0.1


def test_mlp_lopt_trains_the_task(task):
  """Its random theta goes anywhere; meta-trained for some steps it goes down."""
  lopt = mlp_lopt.MLPLOpt()
  model_state = task.init_with_state(KEY)[1]
  params = jax.jit(task.init)(KEY)

  @jax.value_and_grad
  def last_loss(theta):
    optimizer = WithoutState(lopt.opt_fn(theta), model_state)
    state = optimizer.init(params, None, num_steps=5)
    return jax.lax.scan(inner_step(task, optimizer), state, jnp.stack([KEY] * 6))[1][-1]

  @jax.jit
  def descend(theta):
    loss, gradient = last_loss(theta)
    return loss, jax.tree_util.tree_map(
      lambda x, g: x - 0.03 * g / (1e-12 + jnp.sqrt(jnp.sum(g * g))), theta, gradient
    )

  theta = jax.jit(lopt.init)(KEY)
  for _ in range(41):
    loss, theta = descend(theta)  # The loss before the step.
  assert loss < jax.jit(task.loss)(params, KEY) - 0.02


SCHEDULE = truncation_schedule.ConstantTruncationSchedule(4)


def test_meta_gradient(family, rule, theta):
  """Of every parameter but the biases that a batch normalisation takes away again."""
  estimator = estimators.truncated_grad(family, rule, SCHEDULE, num_tasks=2, unroll_length=2)
  weights = gradient_learner.WorkerWeights(theta, None, gradient_learner.OuterState(jnp.asarray(1)))
  state = estimator.init_worker_state(weights, key=KEY)
  out, _ = estimator.compute_gradient_estimate(weights, KEY, state, with_summary=False)
  assert np.isfinite(out.mean_loss)
  for name, leaves in out.grad.items():
    for leaf, gradient in leaves.items():
      assert np.isfinite(gradient).all(), name
      without_effect = "conv_1d" in name and leaf == "b" and name != "compute_top_delta/conv_1d_3"
      assert np.any(gradient) != without_effect, f"{name}/{leaf}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grad", "pes", "es"])
def test_library_smoketest_of_the_estimators(kind, family, rule):
  make = getattr(estimators, f"truncated_{kind}")
  length = "trunc_length" if kind == "pes" else "unroll_length"
  trainer_test_utils.trainer_smoketest(make(family, rule, SCHEDULE, num_tasks=2, **{length: 2}))
