"""What a learner takes from its workers, and what it refuses."""

import dataclasses
import pickle

import gin
import jax
import numpy as np
import pytest
from distributed_helpers import Hand, Learner, gradient

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, options


@pytest.fixture
def learner(tmp_path):
  with Learner(tmp_path / "run", num_steps=100).start().stopping() as started:
    yield started


def _refused(learner):
  return {reason: n for reason, n in learner.server.report()["refused"].items() if n}


def _wait_for_step(hand, step):
  while hand.reply.step < step:
    hand.reply = hand.learner.server.exchange(hand.worker, hand.restart)
  return hand


def test_a_batch_of_gradients_makes_one_update(learner):
  first, second = Hand(learner, 0), Hand(learner, 1)
  before = pickle.loads(first.reply.weights).worker_weights.theta
  first.send(1.0)
  second.send(3.0)
  _wait_for_step(first, 1)
  after = pickle.loads(first.reply.weights).worker_weights.theta
  # Gradient descent at 1/8 along the mean gradient, 2.
  for old, new in zip(
    jax.tree_util.tree_leaves(before), jax.tree_util.tree_leaves(after), strict=True
  ):
    assert isinstance(new, np.ndarray)
    np.testing.assert_allclose(new, old - 0.25, rtol=1e-6)
  report = learner.server.report()
  assert (report["gradients"], report["step"], report["waiting"]) == (2, 1, 0)
  assert report["workers"]["1"]["gradients"] == 1
  assert report["losses"] == {"set": 0.5}


def test_gradients_beyond_the_bound_are_refused_and_counted(learner):
  hand, slow = Hand(learner, 0), Hand(learner, 1)
  for _ in range(4):
    hand.send()
  _wait_for_step(hand, 2)
  slow.send(step=0)  # Two updates old; one is allowed.
  assert _refused(learner) == {"stale": 1}
  slow.send(step=1)
  assert _refused(learner) == {"stale": 1}
  hand.send()
  _wait_for_step(hand, 3)
  report = learner.server.report()
  # Ages 1 and 0 in the last batch.
  assert (report["staleness_mean"], report["staleness_max"], report["staleness_bound"]) == (
    0.5,
    1,
    1,
  )


def test_a_waiting_gradient_that_becomes_stale_is_dropped_and_counted(tmp_path):
  server = Learner(tmp_path / "run").server
  # Three that wait while two updates happen elsewhere.
  for _ in range(3):
    server.put_grads(0, 0, gradient(1.0))
  assert server.report()["gradients"] == 3
  assert server.set_weights(2, server.get_weights(0)[1]) == 3
  report = server.report()
  assert {reason: n for reason, n in report["refused"].items() if n} == {"stale": 3}
  assert report["gradients"] == 0


def test_nan_is_refused_by_the_learner_itself(learner):
  hand = Hand(learner)
  hand.send(np.nan)
  hand.send(np.inf)
  hand.send(1.0, loss=np.nan)
  hand.send(None)  # A worker that noticed.
  assert _refused(learner) == {"not finite": 4}
  assert learner.server.report()["gradients"] == 0


def test_a_repeated_call_counts_once(learner):
  hand = Hand(learner)
  hand.send(number=0)
  hand.send(number=0)
  assert _refused(learner) == {"repeated": 1}
  assert learner.server.report()["gradients"] == 1


def test_a_process_that_was_replaced_is_sent_home(learner):
  old = Hand(learner)
  new = Hand(learner)
  assert (old.restart, new.restart) == (0, 1)
  assert old.send() is None
  assert new.send() is not None
  assert _refused(learner) == {"superseded": 1}
  assert learner.server.report()["workers"]["0"]["restarts"] == 1


@pytest.mark.parametrize("name", ["jax", "unsup_rule", "configuration", "learned_optimization"])
def test_a_worker_of_another_version_is_refused(learner, name):
  with pytest.raises(UnsupRuleError, match=f"worker 1 has {name} other, the learner .*; install"):
    learner.join(1, **{name: "other"})
  assert "1" not in learner.server.report()["workers"]


def test_more_gradients_than_the_buffer_holds_are_refused(tmp_path):
  learner = Learner(tmp_path / "run")  # Whose loop takes none.
  hand = Hand(learner)
  for _ in range(66):
    hand.send()
  assert _refused(learner) == {"buffer full": 2}
  assert learner.server.report()["waiting"] == 64


def test_no_gradient_in_time_names_the_silent_workers(tmp_path):
  gin.parse_config("distributed.gradient_deadline_seconds = 0.7")
  learner = Learner(tmp_path / "run").start()
  Hand(learner, 0)
  error = learner.finish()
  assert isinstance(error, UnsupRuleError)
  assert str(error).startswith("no gradient for 0.7 s; silent workers: 0 (for ")
  assert "1 (never heard of)" in str(error)
  # Theta is saved all the same.
  assert checkpoint.load_state(tmp_path / "run")["step"] == 0


def test_gradients_of_a_theta_that_a_killed_learner_took_along_are_refused(tmp_path):
  """A learner that saved at update 2, went on to 3 and was killed is started anew."""
  folder = tmp_path / "run"
  first = Learner(folder, num_steps=2, trainer_batch_size=1).start()
  hand = Hand(first)
  hand.send()
  _wait_for_step(hand, 1)
  hand.send()
  assert first.finish() == {"state": "finished", "step": 2}
  with Learner(folder, num_steps=9, trainer_batch_size=1).start().stopping() as second:
    assert second.server.restart == 1
    hand.learner = second
    hand.reply = second.server.exchange(0, hand.restart, None, {"pid": 7})
    # Of the lost update 3: refused now, and also when this learner has come as far.
    hand.send(step=3, learner_restart=0)
    assert _refused(second) == {"lost theta": 1}
    hand.send()
    _wait_for_step(hand, 3)
    hand.send(step=3, learner_restart=0)
    assert _refused(second) == {"lost theta": 2}
    # That of update 2 was saved: theirs is the same theta.
    hand.send(step=2, learner_restart=0)
    assert _refused(second) == {"lost theta": 2}


def test_another_members_gradients_are_refused(learner):
  server = learner.server
  hand = Hand(learner)
  hand.send()
  other = dataclasses.replace(server.get_weights(0)[1], gen_id="other")
  assert server.set_weights(40, other, clear_buffer=True) == 1
  hand.send(step=0)  # Of the generation before.
  assert _refused(learner) == {"lost theta": 2}


def test_options_are_checked():
  with pytest.raises(UnsupRuleError, match=r"distributed.buffer_batches is 0; give a positive"):
    options.DistributedOptions(buffer_batches=0)
