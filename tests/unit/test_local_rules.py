"""Hand-made local rules: what they converge to, what they leave alone, how they compose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization.optimizers import base as opt_base

from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.local import (
  ForwardForward,
  KrotovHopfield,
  LayerBatch,
  LocalRule,
  Sanger,
  SoftHebb,
)
from unsup_rule.plugin.local.forward_forward import Pair, mixtures
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.structures import Weights

RULES = (Sanger(), KrotovHopfield(), SoftHebb(), ForwardForward())
names = [type(rule).__name__ for rule in RULES]


def layer_of(x_BxM):
  return LayerBatch(x_BxM, x_BxM, x_BxM, jnp.full(len(x_BxM), 1 / len(x_BxM)))


def trained(rule, x_BxM, units, steps, scale=0.1, rate=None):
  """W [M, N] of one layer after full-batch steps of `rate` times the rule's change."""
  w_MxN = scale * jax.random.normal(jax.random.PRNGKey(0), (x_BxM.shape[1], units))
  rate = rule.learning_rate if rate is None else rate

  def body(_, w_MxN):
    weights = Weights(w_MxN, jnp.zeros(units), w_MxN)
    return w_MxN + rate * rule.layer_change(weights, layer_of(x_BxM), jax.random.PRNGKey(1)).w

  return np.asarray(jax.jit(lambda w: jax.lax.fori_loop(0, steps, body, w))(w_MxN))


@pytest.fixture(scope="module")
def gaussian():
  """Inputs [500, 4] whose covariance has the eigenvalues 4, 2, 1, 0.1 up to sampling."""
  random = np.random.default_rng(0)
  turn, _ = np.linalg.qr(random.normal(size=(4, 4)))
  x = random.normal(size=(500, 4)) * np.sqrt([4, 2, 1, 0.1]) @ turn
  return jnp.asarray(x, jnp.float32)


def leading(x_BxM, count):
  _, vectors = np.linalg.eigh(np.cov(np.asarray(x_BxM).T))
  return vectors[:, ::-1][:, :count]


def test_sangers_rule_finds_the_leading_eigenvectors_in_order(gaussian):
  w_MxN = trained(Sanger(), gaussian, 3, 1000, rate=1.0)
  np.testing.assert_allclose(np.abs(leading(gaussian, 3).T @ w_MxN), np.eye(3), atol=1e-3)


def test_ojas_subspace_rule_finds_the_same_subspace_in_no_order(gaussian):
  w_MxN = trained(Sanger(ordered=False), gaussian, 2, 1000, rate=1.0)
  vectors = leading(gaussian, 2)
  np.testing.assert_allclose(w_MxN @ w_MxN.T, vectors @ vectors.T, atol=1e-3)
  assert np.abs(vectors.T @ w_MxN)[0, 0] < 0.99


@pytest.mark.parametrize("p", [2.0, 3.0])
def test_krotov_hopfield_weights_reach_the_p_sphere(p):
  x_BxM = jax.random.normal(jax.random.PRNGKey(2), (200, 6))
  w_MxN = trained(KrotovHopfield(p=p, delta=0.0), x_BxM, 4, 3000, rate=3e-3)
  np.testing.assert_allclose(np.sum(np.abs(w_MxN) ** p, axis=0), 1, atol=0.05)


def test_krotov_hopfield_moves_the_winner_towards_and_the_next_away():
  weights = Weights(jnp.array([[0.3, 0.2, 0.1]]), jnp.zeros(3), jnp.zeros((1, 3)))
  change = KrotovHopfield().layer_change(weights, layer_of(jnp.array([[1.0], [-1.0]])), None).w
  # At 1 the currents are .3, .2, .1: unit 0 learns (1 - .3 x .3) = .91, unit 1 unlearns .4 (1 - .2
  # x .2) = .384. At -1 they are -.3, -.2, -.1: unit 2 learns -(1 - .1 x .1) = -.99, unit 1 unlearns
  # -.384. In all .91, 0 and -.99, divided by the largest.
  np.testing.assert_allclose(change, [[0.91 / 0.99, 0, -1]], atol=1e-6)


def test_softhebb_columns_converge_to_unit_length():
  x_BxM = jax.random.normal(jax.random.PRNGKey(3), (200, 6))
  for scale in (0.05, 1.5):
    lengths_N = np.linalg.norm(trained(SoftHebb(), x_BxM, 3, 2000, scale, rate=0.3), axis=0)
    np.testing.assert_allclose(lengths_N, 1, atol=0.01)


def test_anti_hebbian_softhebb_unlearns_all_but_the_strongest():
  weights = Weights(jnp.array([[0.5, 0.25]]), jnp.zeros(2), jnp.zeros((1, 2)))
  layer = layer_of(jnp.array([[3.0], [-3.0]]))  # of unit length: 1 and -1
  change = SoftHebb(sharpness=10.0, anti_hebbian=True).layer_change(weights, layer, None).w
  # Unit 0 wins the first with y and loses the second with 1 - y; unit 1 the other way round.
  y = 1 / (1 + np.exp(-2.5))  # softmax of 10 x .5 and 10 x .25
  np.testing.assert_allclose(change[0], [0.75 / 2, -(1 - 0.25**2) / 2], rtol=1e-5)
  soft = SoftHebb(sharpness=10.0).layer_change(weights, layer, None).w
  np.testing.assert_allclose(soft[0], np.array([0.75, -0.9375]) * (y - 0.5), rtol=1e-5)


def test_forward_forward_separates_real_from_mixed(gaussian):
  mlp = MLP(4, (16,), 8)
  params, rule = mlp.init(jax.random.PRNGKey(0)), ForwardForward(learning_rate=1e-2)

  def loss(params, key):
    below = (gaussian, mixtures(key, gaussian))
    units = [x / jnp.sqrt(jnp.mean(x**2, axis=1, keepdims=True)) for x in below]
    weight_B = jnp.full(len(gaussian), 1 / len(gaussian))
    return rule.layer_loss(params.layer(1), Pair(*units), weight_B)

  step = jax.jit(lambda s, k: rule.update(s, model_state=mlp.apply(s.params, gaussian), key=k))
  state = rule.init(params)
  for i in range(100):
    state = step(state, jax.random.PRNGKey(i))
  key = jax.random.PRNGKey(1000)
  assert loss(state.params, key) < loss(params, key) - 0.05


def test_mixtures_keep_each_input_among_its_own_values():
  x_BxM = jnp.arange(40.0).reshape(8, 5)
  mixed = np.asarray(mixtures(jax.random.PRNGKey(0), x_BxM))
  for column, values in zip(mixed.T, np.asarray(x_BxM).T, strict=True):
    assert set(column) <= set(values)
  # No row of the batch, unless a permutation brought an example together with itself.
  assert (mixed[:, None] == np.asarray(x_BxM)[None]).all(axis=-1).any(axis=1).sum() <= 2


@pytest.fixture(scope="module")
def small():
  mlp = MLP(6, (5, 5), 3)
  params = mlp.init(jax.random.PRNGKey(0))
  return mlp, params, mlp.apply(params, jax.random.normal(jax.random.PRNGKey(1), (7, 6)))


@pytest.mark.parametrize("rule", RULES, ids=names)
def test_rules_change_every_w_and_no_v_and_say_what_they_know(rule, small):
  _, params, activations = small
  after = rule.update(rule.init(params), model_state=activations).params
  for old, new in zip(params.layers, after.layers, strict=True):
    assert not np.array_equal(old.w, new.w)
    np.testing.assert_array_equal(old.v, new.v)
    assert np.array_equal(old.b, new.b) != isinstance(rule, ForwardForward)
  assert rule.label
  assert rule.source
  assert rule.local_in
  assert rule.name.startswith(type(rule).__name__)


@pytest.mark.parametrize("rule", RULES, ids=names)
def test_rules_ignore_gradient_and_loss_and_repeat_without_a_key(rule, small):
  _, params, activations = small
  first = rule.update(rule.init(params), model_state=activations).params
  poison = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
  second = rule.update(rule.init(params), poison, jnp.nan, model_state=activations).params
  jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("rule", RULES[:3], ids=names[:3])
def test_missing_examples_count_for_nothing(rule, small):
  mlp, params, activations = small
  mask = jnp.ones(9).at[7:].set(0)
  padded = jnp.concatenate([activations.x_0, jnp.ones((2, 6))])
  key = jax.random.PRNGKey(0)
  without = rule.change(params, activations, key)
  masked = rule.change(params, mlp.apply(params, padded, mask), key)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), without, masked)


def test_an_inner_optimizer_takes_minus_the_change_for_its_gradient(small):
  _, params, activations = small
  rule = Sanger(inner_optimizer=opt_base.SGD(0.25))
  change = rule.change(params, activations, jax.random.PRNGKey(0))
  after = rule.update(rule.init(params), model_state=activations).params
  expected = jax.tree.map(lambda p, c: p + 0.25 * c, params, change)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after, expected)
  momentum = Sanger(inner_optimizer=opt_base.SGDM(0.1))
  assert momentum.name == "Sanger_SGDM_lr0.1_m0.9"


def test_without_activations_a_rule_says_what_to_pass(small):
  _, params, _ = small
  with pytest.raises(UnsupRuleError, match=r"train an MLPTask, or pass MLP\.apply"):
    Sanger().update(Sanger().init(params), params, 0.0)


def test_a_rule_of_ones_own_is_a_change_of_one_layer(small):
  class Decay(LocalRule):
    """Halves each weight."""

    def layer_change(self, weights, layer, key):
      return Weights(-weights.w, jnp.zeros_like(weights.b), jnp.zeros_like(weights.v))

  _, params, activations = small
  rule = Decay(learning_rate=0.5)
  after = rule.update(rule.init(params), model_state=activations).params
  np.testing.assert_allclose(after.layer(2).w, params.layer(2).w / 2, rtol=1e-6)
