"""Outer steps: seeded through and through, exact after a break, and safe from NaN."""

import gin
import jax
import jax.numpy as jnp
import meta_problems
import numpy as np
import pytest
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.optimizers import base as opt_base
from learned_optimization.outer_trainers import truncation_schedule

from unsup_rule import compat
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, estimators, gin_files
from unsup_rule.meta import settings as settings_module
from unsup_rule.meta.ahead import CompiledAhead
from unsup_rule.meta.training_run import MetaTrainingRun

# The same objects in every run, so that estimators and their compilations are the same too.
_LOPT = lopt_base.LearnableAdam()
_SCHEDULE = truncation_schedule.ConstantTruncationSchedule(5)
_MAKERS = {"grad": estimators.truncated_grad, "pes": estimators.truncated_pes}


def _library_run(kind, seed=3, num_estimators=2, theta_opt=None):
  """A run on quadratics with the library's estimators, replaced about every other step."""
  length = "unroll_length" if kind == "grad" else "trunc_length"

  def sample(learned_opt, key, number):
    return [
      _MAKERS[kind](
        meta_problems.two_quadratics(one),
        learned_opt,
        trunc_sched=_SCHEDULE,
        num_tasks=2,
        **{length: 2},
      )
      for one in jax.random.split(key, number)
    ]

  return MetaTrainingRun(
    meta_problems.settings(
      sample,
      lopt=_LOPT,
      theta_opt=theta_opt or opt_base.Adam(1e-2),
      num_estimators=num_estimators,
      stochastic_resample_frequency=2,
      trainer={"seed": seed},
    )
  )


def _fake_run(slots, resample_frequency=0, theta_opt=None, seed=0):
  made = iter(slots)
  run = MetaTrainingRun(
    meta_problems.settings(
      lambda lopt, key, number: [next(made) for _ in range(number)],
      theta_opt=theta_opt,
      num_estimators=1 if resample_frequency else len(slots),
      stochastic_resample_frequency=resample_frequency,
      trainer={"seed": seed},
    )
  )
  run.start()
  return run


def _bytes(tree):
  return [(np.asarray(x).dtype, np.asarray(x).tobytes()) for x in jax.tree_util.tree_leaves(tree)]


def _theta(run):
  return np.concatenate([np.ravel(x) for x in jax.tree_util.tree_leaves(run.theta)])


def test_a_break_changes_no_bit(tmp_path):
  """With PES; tests of the command line do the same with back-propagation."""
  straight = _library_run("pes")
  straight.start()
  origins = [[one.seed.key.tolist() for one in straight.estimators]]
  for _ in range(8):
    straight.advance()
    origins.append([one.seed.key.tolist() for one in straight.estimators])
  # Estimators were replaced before the break and after it, and some first ones lived through it.
  assert origins[0] != origins[4] != origins[8]

  first = _library_run("pes")
  first.start()
  for _ in range(4):
    first.advance()
  checkpoint.save_state(tmp_path, first.step, first.to_state())
  second = _library_run("pes")
  second.restore(checkpoint.load_state(tmp_path), "the checkpoint")
  assert second.step == 4
  np.random.seed(1)  # The global generator has no say.
  for _ in range(4):
    second.advance()
  assert second.step == straight.step == 8
  assert _bytes(second.to_state()) == _bytes(straight.to_state())
  assert jax.tree_util.tree_structure(second.learner_state) == jax.tree_util.tree_structure(
    straight.learner_state
  )


def test_seeds_differ_and_training_moves_theta():
  thetas = []
  for seed in (0, 1):
    run = _library_run("pes", seed)
    run.start()
    before = _theta(run)
    report = run.advance()
    assert np.isfinite(report.loss)
    assert report.gradient_norm > 0
    assert list(report.family_losses) == ["FixedDimQuadraticFamily"]
    assert report.dropped == 0
    assert (_theta(run) != before).any()
    np.testing.assert_array_equal(
      np.concatenate([np.ravel(x) for x in jax.tree_util.tree_leaves(run.initial_theta())]), before
    )
    thetas.append(np.asarray(run.estimators[0].seed.key).tolist())
  assert thetas[0] != thetas[1]


def test_gradient_descent_by_hand():
  run = _fake_run([meta_problems.FakeEstimator(), meta_problems.FakeEstimator()])
  before = _theta(run)
  report = run.advance()
  # Both gradients are one everywhere, and so is their mean; the step size is 1/8.
  np.testing.assert_allclose(_theta(run), before - 0.125, rtol=1e-6)
  assert report.gradient_norm == pytest.approx(np.sqrt(before.size))
  assert report.loss == 1.5
  assert report.family_losses == {"fake_family": 1.5}


def test_bad_gradient_is_dropped_and_its_problems_start_anew():
  good, bad = meta_problems.FakeEstimator(), meta_problems.FakeEstimator(bad_calls=(2,))
  run = _fake_run([good, bad])
  start = _theta(run)
  reports = [run.advance() for _ in range(4)]
  assert [report.dropped for report in reports] == [0, 1, 0, 0]
  assert run.dropped == 1
  # The good one alone moved theta at the second step; the bad one is whole again at the third.
  np.testing.assert_allclose(_theta(run), start - 4 * 0.125, rtol=1e-5)
  assert (good.inits, bad.inits) == (1, 2)
  assert [int(one.unroll_state["age"]) for one in run.estimators] == [4, 2]
  assert [one.bad_in_a_row for one in run.estimators] == [0, 0]


def test_theta_stays_where_every_gradient_is_bad():
  run = _fake_run([meta_problems.FakeEstimator(bad_calls=(1, 2))])
  state = _bytes(run.learner_state)
  for step in (1, 2):
    report = run.advance()
    assert report.dropped == 1
    assert np.isnan(report.loss)
    assert _bytes(run.learner_state) == state
    assert run.estimators[0].bad_in_a_row == run.step == step
  run.advance()
  assert _bytes(run.learner_state) != state
  assert run.estimators[0].bad_in_a_row == 0


def test_an_update_that_would_overflow_is_dropped():
  run = _fake_run([meta_problems.FakeEstimator()], theta_opt=opt_base.SGD(np.inf))
  before = _theta(run)
  assert run.advance().dropped == 1
  np.testing.assert_array_equal(_theta(run), before)


def test_estimators_are_replaced_by_chance_and_by_seed():
  def replaced(seed):
    slots = [meta_problems.FakeEstimator() for _ in range(200)]
    run = _fake_run(slots, resample_frequency=4, seed=seed)
    ages = []
    for _ in range(100):
      run.advance()
      ages.append(int(run.estimators[0].unroll_state["age"]))
    return ages

  ages = replaced(0)
  assert ages == replaced(0) != replaced(1)
  # Of 100 steps a quarter, give or take three standard deviations.
  assert 12 <= ages.count(0) <= 38
  never = _fake_run([meta_problems.FakeEstimator()], resample_frequency=0)
  for _ in range(20):
    never.advance()
  assert int(never.estimators[0].unroll_state["age"]) == 20


def test_restoring_another_configuration_names_what_differs():
  run = _library_run("grad")
  run.start()
  run.estimators[0].begun_with = None  # As after a step.
  state = run.to_state()
  for other, message in (
    (_library_run("grad", seed=4), r"was not made with trainer.seed = 4"),
    (_library_run("grad", num_estimators=3), r"has 2 estimators, run_train.num_estimators is 3"),
    (_library_run("grad", theta_opt=opt_base.SGD()), r"outer learner in here has a leaf too many"),
    (_library_run("pes"), r"estimator 0 \(TruncatedPES\) in here has no leaf"),
  ):
    with pytest.raises(UnsupRuleError, match=message):
      other.restore(state, "here")


PHASES = {2: ["truncated_grad.num_tasks = 4"], 4: ["run_train.num_estimators = 3"]}


def _run_in_phases():
  gin.clear_config()
  text = gin_files.parse(
    (), [*meta_problems.GIN.strip().splitlines(), f"trainer.phases = {PHASES}"]
  )
  return MetaTrainingRun(settings_module.read(text))


def test_phases_take_force_at_their_step_and_after_a_break():
  straight = _run_in_phases()
  straight.start()
  shapes = []
  for step in range(6):
    straight.advance()
    shapes.append((len(straight.estimators), straight.estimators[0].estimator.num_tasks))
    if step == 1:
      before = straight.to_state()
    if step == 2:
      within = straight.to_state()
  assert shapes == [(2, 2)] * 2 + [(2, 4)] * 2 + [(3, 4)] * 2
  for state in (before, within):
    resumed = _run_in_phases()
    resumed.restore(state, "memory")
    while resumed.step < 6:
      resumed.advance()
    assert _bytes(resumed.learner_state) == _bytes(straight.learner_state)


def test_a_phase_that_gin_does_not_understand_is_refused_before_the_first_step(monkeypatch):
  monkeypatch.setitem(PHASES, 5, ["truncated_grad.num_task = 8"])
  with pytest.raises(UnsupRuleError, match="did you mean 'num_tasks'"):
    _run_in_phases().start()


@pytest.mark.parametrize("name", ["Adam.learning_rate", "a/scope/Adam.beta1", "rate"])
def test_a_phase_cannot_bind_the_outer_optimizer(monkeypatch, name):
  monkeypatch.setitem(PHASES, 5, [f"{name} = 2.0"])
  with pytest.raises(UnsupRuleError, match=f"^trainer.phases binds {name} at step 5, .* made once"):
    _run_in_phases()


def test_a_phase_may_bind_the_learned_optimizer_that_the_learner_is_given(monkeypatch):
  name = "meta_init" if compat.IS_HEAD else "lopt"
  given = f"\nGradientLearner.{name} = @LearnableAdam()\n"
  monkeypatch.setattr(meta_problems, "GIN", meta_problems.GIN + given)
  monkeypatch.setitem(PHASES, 5, ["LearnableAdam.use_summary = True"])
  assert 5 in _run_in_phases().settings.trainer.phases


def test_problems_that_nobody_has_worked_on_are_kept_as_a_key():
  """So that a checkpoint of a run with whole episodes is small."""
  run = _library_run("grad")
  run.start()
  kept = run.to_state()["slots"]
  assert [sorted(slot) for slot in kept.values()] == [
    ["bad_in_a_row", "begun_with", "index", "key", "number"]
  ] * 2
  again = _library_run("grad")
  again.restore(run.to_state(), "memory")
  assert _bytes([one.unroll_state for one in again.estimators]) == _bytes(
    [one.unroll_state for one in run.estimators]
  )


def test_what_is_compiled_ahead_is_not_compiled_again():
  run = _library_run("grad")
  run.start()
  estimator = run.estimators[0].estimator
  weights = run._learner.get_state_for_worker(run.learner_state)
  ahead = CompiledAhead(weights)
  ahead.begin([estimator, meta_problems.FakeEstimator()])
  ahead.wait(estimator)
  count = estimator.program._cache_size()
  assert count == 1
  run.advance()
  assert estimator.program._cache_size() == count


def test_initial_theta_from_a_file_is_checked(tmp_path):
  lopt = lopt_base.LearnableAdam()
  theta = jax.tree_util.tree_map(lambda x: x + 1, lopt.init(jax.random.PRNGKey(0)))
  checkpoint.save_params(tmp_path, theta, 0)

  def started():
    options = {"init_theta_from_path": str(tmp_path / "params")}
    run = MetaTrainingRun(
      meta_problems.settings(
        lambda *_: [meta_problems.FakeEstimator()], lopt=lopt, learner_options=options
      )
    )
    run.start()
    return run

  assert _bytes(started().theta) == _bytes(theta)
  wrong = jax.tree_util.tree_map(lambda x: jnp.zeros((2,)), theta)
  checkpoint.save_params(tmp_path, wrong, 0)
  with pytest.raises(UnsupRuleError, match=r"does not fit: leaf .* is float32\[2\], expected"):
    started()


def test_no_weak_types_that_a_checkpoint_would_lose(monkeypatch):
  """A resumed run would compile its programs a second time, for arrays without them."""
  weak = {"age": jnp.asarray(0, jnp.int32), "noise": jnp.asarray(1.0)[None]}
  assert weak["noise"].weak_type
  estimator = meta_problems.FakeEstimator(bad_calls=(2,))
  monkeypatch.setattr(estimator, "init_worker_state", lambda weights, key: weak)
  run = _fake_run([estimator])
  for _ in range(3):
    leaves = jax.tree_util.tree_leaves((run.learner_state, run.estimators[0].unroll_state))
    assert not any(leaf.weak_type for leaf in leaves)
    run.advance()
