"""Lengths of episodes and truncations: sampled, staggered, bounded."""

import jax
import jax.numpy as jnp
import meta_problems
import numpy as np
import pytest
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.optimizers import base as opt_base
from scipy import stats

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import estimators
from unsup_rule.plugin.lengths import EpisodeLengths

_LOPT = lopt_base.LearnableAdam()


def _simulate(schedule, n_tasks, n_steps, seed=0):
  """Ages and ends of tasks [n_steps, n_tasks] as in the library: a step, then `next_state`."""
  key, init_key = jax.random.split(jax.random.PRNGKey(seed))
  state = jax.jit(jax.vmap(lambda k: schedule.init(k, None)))(jax.random.split(init_key, n_tasks))

  def step(carry, key):
    state, age = carry
    next_state = jax.vmap(lambda s, a, k: schedule.next_state(s, a, k, None))
    state, done = next_state(state, age + 1, jax.random.split(key, n_tasks))
    return (state, jnp.where(done, 0, age + 1)), (state.length, age, done)

  keys = jax.random.split(key, n_steps)
  carry = (state, jnp.zeros(n_tasks, jnp.int32))
  return [np.asarray(out) for out in jax.jit(lambda c: jax.lax.scan(step, c, keys)[1])(carry)]


def test_lengths_are_log_uniform():
  schedule = EpisodeLengths(4, 64, staggered=False)
  keys = jax.random.split(jax.random.PRNGKey(0), 10_000)
  lengths = np.asarray(jax.jit(jax.vmap(lambda k: schedule.init(k, None)))(keys).length)
  assert lengths.dtype == np.int32
  assert [lengths.min(), lengths.max()] == [4, 64]
  edges = np.array([4, 8, 16, 32, 65])
  expected = np.diff(np.log(edges)) / np.log(65 / 4)
  counts = np.histogram(lengths, edges)[0]
  assert stats.chisquare(counts, expected * 10_000).pvalue > 1e-3
  _, _, done = _simulate(schedule, 10, 3)
  assert not done.any()  # Nobody is done before the shortest length.


def test_as_many_tasks_end_at_one_step_as_at_any_other():
  schedule = EpisodeLengths(5, 40)
  lengths, ages, done = _simulate(schedule, 4000, 200)
  ends = done.sum(1)
  assert stats.chisquare(ends.reshape(20, 10).sum(1)).pvalue > 1e-3
  mean = np.mean(np.arange(5, 41) * np.log1p(1 / np.arange(5, 41))) / np.log(41 / 5) * 36
  assert ends.mean() / 4000 == pytest.approx(1 / mean, rel=0.02)
  # After the longest episode each age below the shortest length is as common as any other.
  counts = np.bincount(ages[120], minlength=40)[:5]
  assert stats.chisquare(counts).pvalue > 1e-3
  assert lengths.max() == 40
  assert ages.max() == 39


def test_without_staggering_all_tasks_begin_together():
  _, _, done = _simulate(EpisodeLengths(5, 40, staggered=False), 4000, 200)
  ends = done.sum(1)
  assert (ends[:4] == 0).all()
  assert stats.chisquare(ends.reshape(20, 10).sum(1)).pvalue < 1e-6


def test_one_length():
  lengths, _, done = _simulate(EpisodeLengths(7, 7), 50, 30)
  ends = [np.flatnonzero(column) for column in done.T]
  assert all((np.diff(end) == 7).all() for end in ends)
  assert {int(end[0]) for end in ends} == set(range(7))
  assert (lengths[7:] == 7).all()


@pytest.mark.parametrize(("low", "high"), [(0, 5), (6, 5)])
def test_bad_lengths(low, high):
  with pytest.raises(UnsupRuleError, match=f"EpisodeLengths from {low} to {high}: give 1 <= min"):
    EpisodeLengths(low, high)


def _truncated_es(lengths, **options):
  return estimators.truncated_es(
    meta_problems.two_quadratics(jax.random.PRNGKey(0)),
    _LOPT,
    trunc_sched=EpisodeLengths(50, 50, staggered=False),
    num_tasks=2,
    unroll_length=lengths,
    **options,
  )


@pytest.mark.slow
def test_each_estimate_draws_the_length_of_its_truncation(compilations):
  learner = meta_problems.gradient_learner_of(_LOPT, opt_base.SGD(0.1))
  weights = learner.get_state_for_worker(learner.init(jax.random.PRNGKey(0)))
  estimator = _truncated_es((1, 2, 4))
  assert estimator.task_family.name == "FixedDimQuadraticFamily"
  state, drawn, age = estimator.init_worker_state(weights, jax.random.PRNGKey(0)), [], 0
  for seed in range(12):
    if set(drawn) == {1, 2, 4}:
      compilations.clear()
    out, _ = estimator.compute_gradient_estimate(weights, jax.random.PRNGKey(seed), state)
    drawn.append(out.unroll_info.loss.shape[0])
    age += drawn[-1]
    state = out.unroll_state
    assert (np.asarray(out.unroll_info.iteration)[-1] == age).all()  # The tasks go on.
  assert set(drawn) == {1, 2, 4}
  assert not compilations  # All lengths were there already.
  again, _ = estimator.compute_gradient_estimate(weights, jax.random.PRNGKey(5), state)
  assert again.unroll_info.loss.shape[0] == drawn[5]
  # Another estimator of the same kind: the same compiled programs.
  twin = _truncated_es((1, 2, 4))
  assert twin.estimators == estimator.estimators
  assert _truncated_es(2) is estimator.estimators[1]


@pytest.mark.parametrize(
  ("lengths", "options", "message"),
  [
    ((), {}, r"unroll_length is \(\); give one or several numbers"),
    ((0, 5), {}, r"unroll_length is \(0, 5\); give one or several numbers"),
    ((4, 6), {"steps_per_jit": 0}, "steps_per_jit is 0; give a divisor of unroll_length"),
    ((4, 6), {"steps_per_jit": 4}, "steps_per_jit 4 does not divide unroll_length 6"),
  ],
)
def test_bad_truncations(lengths, options, message):
  with pytest.raises(UnsupRuleError, match=message):
    _truncated_es(lengths, **options)
