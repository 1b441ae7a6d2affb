"""The rule without the library: as a pure function, with adapters, as a transformation of optax."""

import dataclasses
import importlib.util
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from folders import ROOT
from other_libraries import require_flax_nnx
from rule_helpers import SMALLEST, drawn_weights

import unsup_rule
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.structures import Params, Weights
from unsup_rule.weights.archive import Use
from unsup_rule.weights.pretrained import Pretrained

TINY = MLP(5, (6,), SMALLEST.output_size)
STEPS = 4


@pytest.fixture(scope="module")
def rule(smallest_theta):
  """Of the smallest sizes, with everything that the shipped default has beside theta."""
  schedule = InnerSchedule(0.04, 400.0, 9.0, 0.4, 6.0, shuffle_inputs=True)
  return Pretrained(smallest_theta, schedule, Use(), {"seed": 0}, "small", "")


@pytest.fixture(scope="module")
def x_SxBxN():
  return jnp.asarray(np.random.default_rng(0).normal(size=(STEPS, 8, 5)), jnp.float32)


@pytest.fixture(scope="module")
def params():
  return drawn_weights(TINY, 0)


@pytest.fixture(scope="module")
def by_the_library(rule, params, x_SxBxN):
  """The base model after each step of the `LearnedOptimizer`."""
  optimizer = rule.learned_optimizer().opt_fn(rule.theta)
  step = jax.jit(lambda s, x: optimizer.update(s, model_state=TINY.apply(s.params, x)))
  state, after = optimizer.init(params), []
  for x_BxN in x_SxBxN:
    state = step(state, x_BxN)
    after.append(optimizer.get_params(state))
  return after


def agree(actual, expected, atol=1e-6):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), actual, expected)


def scanned(rule, params, x_SxBxN):
  """The base model after each step of `unsup_rule.step`."""

  def body(params, t_and_x):
    t, x = t_and_x
    new = unsup_rule.step(rule, params, x, t)
    return new, new

  return jax.lax.scan(body, params, (jnp.arange(len(x_SxBxN)), x_SxBxN))[1]


@pytest.fixture(scope="module")
def in_a_scan(rule, params, x_SxBxN):
  return jax.jit(scanned)(rule, params, x_SxBxN)


def test_step_in_a_scan_is_the_learned_optimizer(in_a_scan, by_the_library):
  agree(in_a_scan, jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_the_library))


def test_a_step_moves_and_depends_on_its_number(rule, params, x_SxBxN, by_the_library):
  step = jax.jit(unsup_rule.step)
  first = step(rule, params, x_SxBxN[0], 0)
  agree(first, by_the_library[0])
  later = step(rule, params, x_SxBxN[0], 50)
  for other in (params, later):
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), first, other))) > 1e-3


def test_plain_layers_go_in_and_come_out(rule, params, x_SxBxN, by_the_library):
  layers = [tuple(layer) for layer in params.layers]
  new = jax.jit(unsup_rule.step)(rule, layers, x_SxBxN[0], 0)
  agree(new, [tuple(layer) for layer in by_the_library[0].layers])


def test_models_side_by_side(rule, params, x_SxBxN, in_a_scan):
  """`vmap` over base models and batches; each gets what it gets alone."""
  both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
  x = jnp.stack([x_SxBxN, x_SxBxN[::-1]], axis=1)

  def first(rule, params, x_BxN):
    return unsup_rule.step(rule, params, x_BxN, 0)

  side_by_side = jax.jit(jax.vmap(first, in_axes=(None, 0, 0)))(rule, both, x[0])
  agree(jax.tree.map(lambda leaf: leaf[0], side_by_side), jax.tree.map(lambda a: a[0], in_a_scan))
  alone = jax.jit(unsup_rule.step)(rule, params, x_SxBxN[-1], 0)
  agree(jax.tree.map(lambda leaf: leaf[1], side_by_side), alone)


def test_what_does_not_fit_is_refused(rule, params, x_SxBxN):
  (w, b, v), top = map(tuple, params.layers)
  with pytest.raises(UnsupRuleError, match=r"layer 1 has W \(5, 6\), b \(6,\), V \(6, 5\); give"):
    unsup_rule.step(rule, [(w, b, v.T), top], x_SxBxN[0])
  with pytest.raises(UnsupRuleError, match=r"layer 2 has W \(6, 4\).*M being N of the layer below"):
    unsup_rule.step(rule, [(w[:, 1:], b[1:], v[:, 1:]), top], x_SxBxN[0])
  with pytest.raises(UnsupRuleError, match="holds no layer"):
    unsup_rule.step(rule, [], x_SxBxN[0])
  with pytest.raises(UnsupRuleError, match="made for 4"):
    unsup_rule.step(rule, [(w, b, v)], x_SxBxN[0])


def test_a_rule_is_a_tree_of_theta(rule):
  doubled = jax.tree.map(lambda leaf: 2 * leaf, rule)
  assert (doubled.schedule, doubled.use, doubled.name) == (rule.schedule, rule.use, rule.name)
  assert doubled.provenance == rule.provenance
  agree(doubled.theta, jax.tree.map(lambda leaf: 2 * leaf, rule.theta), atol=0)


def example(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def equinox():
  """The adapter, a model as large as `TINY`, its (W, b), and how it is called."""
  eqx = pytest.importorskip("equinox")
  key = jax.random.PRNGKey(3)
  model = eqx.nn.MLP(5, TINY.n_outputs, 6, 1, final_activation=jax.nn.relu, key=key)
  layers = [(layer.weight.T, layer.bias) for layer in model.layers]
  return example("equinox_mlp"), model, layers, lambda model, x: jax.vmap(model)(x)


def flax_nnx():
  """The same."""
  require_flax_nnx()
  adapter = example("flax_nnx")
  model = adapter.stack(TINY.sizes, adapter.nnx.Rngs(3))
  layers = [(model.layers[i].kernel[...], model.layers[i].bias[...]) for i in (0, 2)]
  return adapter, model, layers, lambda model, x: model(x)


@pytest.mark.parametrize("library", [equinox, flax_nnx])
def test_models_of_other_libraries_agree(library, rule, x_SxBxN):
  """Weights go in, are trained, come out, and embed as `MLP` does."""
  adapter, model, layers, call = library()
  key = jax.random.PRNGKey(0)
  before = adapter.params_of(model, key)
  pairs = zip(layers, TINY.init(key).layers, strict=True)
  ours = Params.of_layers([Weights(w, b, own.v) for (w, b), own in pairs])
  agree(before, ours, atol=0)
  after, step = before, jax.jit(unsup_rule.step)
  for t, x_BxN in enumerate(x_SxBxN):
    after, ours = step(rule, after, x_BxN, t), step(rule, ours, x_BxN, t)
  expected = TINY.features(ours, x_SxBxN[0])
  assert expected.std() > 0.1
  features = call(adapter.with_params(model, after, x_SxBxN[0]), x_SxBxN[0])
  np.testing.assert_allclose(features, expected, rtol=0, atol=1e-6)
  assert abs(call(model, x_SxBxN[0]) - expected).max() > 0.1  # The model is left as it was.


def trained_by(transformation, params, x_SxBxN, model=lambda tree: tree, updates=None):
  """Parameters after each step with optax."""

  @jax.jit
  def step(params, state, x_BxN):
    activations = TINY.apply(model(params), x_BxN)
    given = params if updates is None else updates
    new, state = transformation.update(given, state, params, activations=activations)
    return optax.apply_updates(params, new), state

  state, after = transformation.init(params), []
  for x_BxN in x_SxBxN:
    params, state = step(params, state, x_BxN)
    after.append(params)
  return after


@pytest.mark.parametrize("own", [True, False])
def test_optax_reproduces_the_dynamics(rule, params, x_SxBxN, by_the_library, own):
  """With the rule's own schedule, and in a chain with that schedule written out."""
  written_out = optax.chain(
    optax.clip_by_global_norm(1e-9),  # Of what the rule puts something else in the place of.
    unsup_rule.scale_by_rule(rule),
    optax.clip(1e9),
    optax.scale_by_schedule(lambda t: -0.04 / (1 + t / 400) ** 9),
  )
  transformation = unsup_rule.optax_transformation(rule) if own else written_out
  after = trained_by(transformation, params, x_SxBxN)
  for actual, expected in zip(after, by_the_library, strict=True):
    agree(actual, expected)


def test_optax_takes_another_schedule_and_weight_decay(rule, params, x_SxBxN):
  constant = dataclasses.replace(
    rule, schedule=dataclasses.replace(rule.schedule, decay_steps=None)
  )
  decayed = optax.chain(
    unsup_rule.scale_by_rule(rule),
    optax.add_decayed_weights(0.5),
    optax.scale_by_learning_rate(0.04),
  )
  (expected,) = trained_by(unsup_rule.optax_transformation(constant), params, x_SxBxN[:1])
  (plain,) = trained_by(unsup_rule.optax_transformation(rule, 0.04), params, x_SxBxN[:1])
  agree(plain, expected)
  (actual,) = trained_by(decayed, params, x_SxBxN[:1])
  agree(actual, jax.tree.map(lambda new, old: new - 0.04 * 0.5 * old, expected, params))


def test_optax_trains_a_part_of_a_model(rule, params, x_SxBxN, by_the_library):
  """The rest of it by its gradient."""
  tree = {"encoder": params, "head": jnp.ones((4, 2))}
  transformation = optax.chain(
    optax.masked(unsup_rule.optax_transformation(rule), {"encoder": True, "head": False}),
    optax.masked(optax.sgd(0.5), {"encoder": False, "head": True}),
  )
  gradient = {"encoder": jax.tree.map(jnp.zeros_like, params), "head": jnp.full((4, 2), 0.25)}
  encoder = operator.itemgetter("encoder")
  after = trained_by(transformation, tree, x_SxBxN, encoder, gradient)
  for number, (actual, expected) in enumerate(zip(after, by_the_library, strict=True), 1):
    agree(actual["encoder"], expected)
    agree(actual["head"], jnp.full((4, 2), 1 - 0.125 * number))


def test_optax_refuses_what_it_does_not_know(rule, params, x_SxBxN):
  transformation = unsup_rule.scale_by_rule(rule)
  state = transformation.init(params)
  with pytest.raises(UnsupRuleError, match="1 base models and activations of 0; pass params"):
    transformation.update(params, state, params)
  with pytest.raises(UnsupRuleError, match=r"knows Params alone.*optax\.masked"):
    transformation.init({"encoder": params, "head": jnp.zeros(3)})
  wide = Params.of_layers(params.layers[:1])
  with pytest.raises(UnsupRuleError, match="made for 4"):
    transformation.init(wide)
