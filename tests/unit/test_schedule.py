"""How changes are applied: step size, resting biases, order of the inputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_helpers import SMALL, SMALLEST, drawn_weights
from shipped import DEFAULT

import unsup_rule
from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.rule import RuleOptimizer, RuleState, UnsupervisedRule
from unsup_rule.rule.mlp import MLP, NONLINEARITIES
from unsup_rule.rule.schedule import InnerSchedule, order_of_step
from unsup_rule.rule.update import changes
from unsup_rule.weights import run_folder

from learned_optimization.optimizers import base as opt_base  # isort: skip


@pytest.fixture(scope="module")
def x():
  return jnp.asarray(np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32))


def check_close(actual, expected):
  """Trees agree to 1e-6."""
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), actual, expected)


# Compiled once for a shape: theta, weights and activations are arguments.
@functools.cache
def forward(mlp):
  """(params, x) -> activations."""
  return jax.jit(mlp.apply)


@jax.jit
def plain_change(theta, params, activations):
  """The change by the bare rule."""
  return changes(theta, SMALLEST, params, activations)


@functools.cache
def step_of(*schedules):
  """(theta, params, activations, number of the step) -> the state after it, by each schedule."""

  def step(theta, params, activations, number):
    state = RuleState(params, None, number)
    optimizers = [RuleOptimizer(SMALLEST, theta, one) for one in schedules]
    return [optimizer.update(state, model_state=activations) for optimizer in optimizers]

  return jax.jit(step)


def updated(theta, mlp, params, x, *schedules):
  """{W, b, V} after one application, by each schedule."""
  states = step_of(*schedules)(theta, params, forward(mlp)(params, x), jnp.int32(0))
  return [state.params for state in states]


def test_learning_rate(smallest_theta, x, strict):
  params = drawn_weights(SMALL, 1)
  activations = forward(SMALL)(params, x)
  change = plain_change(smallest_theta, params, activations)
  for rate in (0.25, 1e-9):
    optimizer = RuleOptimizer(SMALLEST, smallest_theta, InnerSchedule(rate))
    state = optimizer.init(params)
    (after,) = step_of(InnerSchedule(rate))(smallest_theta, params, activations, state.iteration)
    new = optimizer.get_params(after)
    expected = jax.tree.map(lambda old, c, r=rate: (1 - r) * old - r * c, params, change)
    moved = max(
      float(jnp.abs(a - b).max())
      for a, b in zip(*map(jax.tree.leaves, (expected, params)), strict=True)
    )
    assert (moved > 0.01) == (rate > 0.1)
    check_close(new, expected)
    assert (int(state.iteration), int(after.iteration), after.state) == (0, 1, None)


def test_step_size_decays():
  schedule = InnerSchedule(0.8, decay_steps=10, decay_power=2)
  rates = [float(schedule.rate(jnp.int32(t))) for t in (0, 10, 30, 990)]
  np.testing.assert_allclose(rates, [0.8, 0.2, 0.05, 0.00008], rtol=1e-5)
  assert InnerSchedule(0.5).rate(jnp.int32(7)) == 0.5
  # The sum of all steps stays below learning_rate decay_steps / (power - 1), but for the first.
  assert 8.0 < float(jnp.sum(schedule.rate(jnp.arange(100_000)))) < 8.8
  with pytest.raises(UnsupRuleError, match=r"decay_steps is 0; give a positive number"):
    UnsupervisedRule(decay_steps=0)


def test_decay_counts_the_steps_of_the_state(smallest_theta, x, strict):
  params = drawn_weights(SMALL, 1)
  step = step_of(InnerSchedule(0.5, decay_steps=1, decay_power=1))
  (state,) = step(smallest_theta, params, forward(SMALL)(params, x), jnp.int32(0))
  activations = forward(SMALL)(state.params, x)
  change = plain_change(smallest_theta, state.params, activations)
  expected = jax.tree.map(lambda old, c: 0.75 * old - 0.25 * c, state.params, change)
  (after,) = step(smallest_theta, state.params, activations, state.iteration)
  check_close(after.params, expected)


@pytest.mark.parametrize("hidden", [(), (5,), (4, 4)])
def test_biases_decay_to_their_resting_values(smallest_theta, x, hidden):
  """With hidden (4, 4) the embedding is stacked with layers of its own width."""
  mlp = MLP(3, hidden, 4)
  params = drawn_weights(mlp, 1)
  rest = InnerSchedule(0.25, hidden_bias=0.4, embedding_bias=6.0)
  plain, resting = updated(smallest_theta, mlp, params, x, InnerSchedule(0.25), rest)
  moved = [a.b - b.b for a, b in zip(resting.layers, plain.layers, strict=True)]
  assert len(moved) == len(hidden) + 1
  for i, b_N in enumerate(moved):
    # lr times the resting value: 0.25 * 0.4 and 0.25 * 6.
    np.testing.assert_allclose(b_N, 1.5 if i == len(hidden) else 0.1, rtol=1e-4)
  for ours, stack in zip(resting.stacks, plain.stacks, strict=True):
    np.testing.assert_array_equal(ours.w, stack.w)
    np.testing.assert_array_equal(ours.v, stack.v)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_biases_rest_at_0_where_they_would_saturate(smallest_theta, x, nonlinearity):
  mlp = MLP(3, (), 4, nonlinearity)
  params = drawn_weights(mlp, 1)
  rest = InnerSchedule(0.25, embedding_bias=6.0)
  plain, resting = updated(smallest_theta, mlp, params, x, InnerSchedule(0.25), rest)
  moved = resting.stacks[0].b - plain.stacks[0].b
  saturates = nonlinearity in ("tanh", "sigmoid", "step")
  np.testing.assert_allclose(moved, 0.0 if saturates else 1.5, rtol=1e-4)


@pytest.mark.parametrize("hidden", [(5,), (3,)])
def test_shuffled_inputs_are_inputs_in_another_order(smallest_theta, x, hidden):
  """With hidden (3,) the bottom matrix is stacked with one whose rows are hidden units."""
  mlp = MLP(3, hidden, 4)
  params = drawn_weights(mlp, 1)
  shuffling = RuleOptimizer(SMALLEST, smallest_theta, InnerSchedule(0.25, shuffle_inputs=True))
  change = jax.jit(shuffling.change)

  def by_hand(params, x):
    return plain_change(smallest_theta, params, forward(mlp)(params, x))

  plain = by_hand(params, x)
  for step, order in ((0, [0, 2, 1]), (2, [1, 0, 2])):
    assert order_of_step(step, 3).tolist() == order
    order = np.array(order)
    shuffled = change(params, forward(mlp)(params, x), step)
    check_close(shuffled.permuted(order), by_hand(params.permuted(order), x[:, order]))
    assert np.abs(shuffled.stacks[0].w - plain.stacks[0].w).max() > 1e-4


def test_each_step_has_an_order_of_its_own(smallest_theta, x):
  params = drawn_weights(SMALL, 1)
  schedule = InnerSchedule(0.25, shuffle_inputs=True)
  activations = forward(SMALL)(params, x)
  (state,) = step_of(schedule)(smallest_theta, params, activations, jnp.int32(3))
  optimizer = RuleOptimizer(SMALLEST, smallest_theta, schedule)
  change = jax.jit(optimizer.change)(params, activations, 3)
  check_close(state.params, jax.tree.map(lambda old, c: 0.75 * old - 0.25 * c, params, change))
  orders = {tuple(order_of_step(step, 20).tolist()) for step in range(10)}
  assert len(orders) == 10
  assert {tuple(sorted(order)) for order in orders} == {tuple(range(20))}


def test_a_step_of_another_optimizer_rests_at_the_same_biases(smallest_theta, x):
  sizes = dataclasses.asdict(SMALLEST)
  rule = UnsupervisedRule(
    **sizes, embedding_bias=6.0, shuffle_inputs=True, inner_optimizer=opt_base.SGD(0.25)
  )
  params = drawn_weights(SMALL, 1)
  optimizer = rule.opt_fn(smallest_theta)
  update = jax.jit(lambda state, activations: optimizer.update(state, model_state=activations))
  state = update(optimizer.init(params), forward(SMALL)(params, x))
  schedule = InnerSchedule(0.25, embedding_bias=6.0, shuffle_inputs=True)
  (expected,) = updated(smallest_theta, SMALL, params, x, schedule)
  check_close(optimizer.get_params(state), expected)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"hidden_bias": float("inf")}, "hidden_bias is inf; give a finite number"),
    ({"learning_rate": float("inf")}, "learning_rate is inf; give a positive number"),
    ({"decay_steps": float("nan")}, "decay_steps is nan; give a positive number"),
    ({"embedding_bias": "6"}, "embedding_bias is '6'; give a finite number"),
    ({"shuffle_inputs": 1}, "shuffle_inputs is 1; give True or False"),
  ],
)
def test_bad_dynamics(settings, message):
  with pytest.raises(UnsupRuleError, match=message):
    UnsupervisedRule(**settings)


def test_dynamics_are_kept_in_files(tmp_path):
  wanted = InnerSchedule(0.04, 80.0, 3.0, 0.4, 6.0, True)
  rule = dataclasses.replace(unsup_rule.pretrained(DEFAULT), schedule=wanted)
  rule.write(tmp_path / "rule.npz")
  run_folder.write(tmp_path / "folder", rule)
  for path in (tmp_path / "rule.npz", tmp_path / "folder"):
    found = unsup_rule.pretrained(path)
    assert found.schedule == wanted
    assert found.learned_optimizer().schedule == wanted
