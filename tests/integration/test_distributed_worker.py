"""A worker's part: what it sends, what it tells, how it finds a learner that was started anew."""

import itertools

import jax
import meta_problems
import numpy as np
import pytest
from distributed_helpers import Hand, Here, Learner, gradient, settings

from unsup_rule.distributed import actors, worker
from unsup_rule.distributed.server import GradientServer, Reply
from unsup_rule.distributed.worker import Estimators, LearnerLink, NoMoreWork
from unsup_rule.meta import outer_step


@pytest.fixture
def learner(tmp_path):
  run = {"num_steps": 100, "trainer_batch_size": 1, "staleness": 8}
  with Learner(tmp_path / "run", **run).start().stopping() as started:
    yield started


def _link(learner, index=0):
  return LearnerLink(Here(learner.server), index, learner.join(index), {"pid": 7, "core": 1})


def _gradient():
  return gradient(1.0).outer_trainer_grads


def _refused(learner):
  return {reason: n for reason, n in learner.server.report()["refused"].items() if n}


def test_each_gradient_costs_one_call(learner):
  here = Here(learner.server)
  link = LearnerLink(here, 0, learner.join(0), {"pid": 7})
  for _ in range(3):
    assert link.fetch().worker_weights.theta is not None
    link.deliver(_gradient(), {})
  link.fetch()
  # The first one only fetches.
  assert {method for method, _ in here.calls} == {"exchange"}
  assert [arguments[2] is None for _, arguments in here.calls] == [True, False, False, False]
  assert learner.server.report()["gradients"] == 3


def test_an_estimate_with_nan_is_reported_and_its_problems_start_anew(learner):
  fake = meta_problems.FakeEstimator(bad_calls=(2,))
  found = settings(sample_estimators=lambda lopt, key, number: [fake], num_estimators=1)
  link, key = _link(learner), jax.random.PRNGKey(0)
  weights = link.fetch().worker_weights
  inner = Estimators(found, weights, key)
  link.deliver(*inner.estimate(weights, key))
  assert (learner.server.report()["gradients"], fake.inits) == (1, 1)
  assert learner.server.report()["losses"] == {"fake_family": 1.5}
  link.deliver(*inner.estimate(weights, key))
  assert _refused(learner) == {"not finite": 1}
  assert fake.inits == 2
  link.deliver(*inner.estimate(weights, key))
  assert learner.server.report()["gradients"] == 2


def test_a_worker_introduces_itself_to_a_learner_that_was_started_anew(tmp_path):
  run = {"trainer_batch_size": 1, "staleness": 8}
  first = Learner(tmp_path / "run", num_steps=1, **run).start()
  here = Here(first.server)
  link = LearnerLink(here, 3, first.join(3), {"pid": 7, "core": 1})
  link.fetch()
  Hand(first, 0).send()
  assert first.finish()["state"] == "finished"
  with Learner(tmp_path / "run", num_steps=9, **run).start().stopping() as second:
    here.served = second.server
    # Of step 0, which the new learner knows too.
    link.deliver(_gradient(), {})
    report = second.server.report()
    assert report["workers"]["3"]["core"] == 1
    assert report["workers"]["3"]["gradients"] == 1
    link.deliver(_gradient(), {})
    assert second.server.report()["workers"]["3"]["gradients"] == 2


def test_a_worker_leaves_when_the_run_has_ended_or_another_took_its_place(learner):
  old = _link(learner)
  old.fetch()
  learner.join(0)
  with pytest.raises(NoMoreWork):
    old.deliver(_gradient(), {})
  current = _link(learner, 1)
  current.fetch()
  learner.server.stop()
  assert learner.finish()["state"] == "stopped"
  with pytest.raises(NoMoreWork):
    current.deliver(_gradient(), {})


def test_a_worker_gives_up_without_a_cluster():
  link = LearnerLink(actors.Remote[GradientServer]("nobody"), 0, 0, {})
  with pytest.raises(actors.UnreachableError, match="to look for 'nobody'"):
    link.fetch()


class _Learner:
  """Takes gradients of always the same theta, until there were enough."""

  def __init__(self, learner, enough):
    self._left, self._weights = enough, learner.server.exchange(0, learner.join(0)).weights
    self.gradients = []

  def exchange(self, worker, restart, contribution, about):
    if contribution is not None:
      self.gradients.append(contribution.gradient)
      self._left -= 1
    return Reply(0, 0, self._weights) if self._left else None


def test_the_loop_draws_from_our_stream(learner):
  """The same worker and start give the same choices, another start gives others."""

  def keys_of(stream, restart):
    seen = []

    def sample(lopt, key, number):
      seen.append(np.asarray(key).tolist())
      return [meta_problems.FakeEstimator() for _ in range(number)]

    link = LearnerLink(Here(_Learner(learner, 4)), stream, restart, {})
    found = settings(sample_estimators=sample, num_estimators=2, stochastic_resample_frequency=1)
    with pytest.raises(NoMoreWork):
      worker.work(link, found, outer_step.worker_key(0, stream, restart))
    # Two at first, and each of them after each gradient but the last.
    assert len(seen) == 1 + 2 * 3
    return seen

  first = keys_of(0, 0)
  assert keys_of(0, 0) == first
  for other in (keys_of(0, 1), keys_of(1, 0)):
    assert not {str(key) for key in other} & {str(key) for key in first}
  assert all(a != b for a, b in itertools.combinations(first, 2))


def test_what_a_worker_delivers_is_the_mean_over_its_estimators(learner):
  played = _Learner(learner, 2)
  found = settings(
    sample_estimators=lambda lopt, key, number: [
      meta_problems.FakeEstimator() for _ in range(number)
    ],
    num_estimators=3,
  )
  with pytest.raises(NoMoreWork):
    worker.work(LearnerLink(Here(played), 5, 0, {}), found, jax.random.PRNGKey(0))
  for sent in played.gradients:
    assert float(sent.outer_trainer_grads.mean_loss) == 1.5
    for leaf in jax.tree_util.tree_leaves(sent.outer_trainer_grads.theta_grads):
      assert isinstance(leaf, np.ndarray | np.generic)
      np.testing.assert_array_equal(leaf, 1)


def test_an_error_of_a_worker_is_no_runtime_error():
  # The library's run_train would take it for lack of memory, and try for ever.
  assert not issubclass(worker.WorkerFailedError, RuntimeError)
