"""A learner's files: exact resume, damaged checkpoints, a full disk."""

import csv
import json

import gin
import jax
import numpy as np
import pytest
from distributed_helpers import Hand, Learner
from fault_helpers import largest_file

from unsup_rule.cli import status
from unsup_rule.distributed import table
from unsup_rule.distributed.statistics import RestartCounts
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint


def _train(folder, steps, first=0, **settings):
  """One worker sends gradients 1, 2, 3, ..., one an update."""
  learner = Learner(folder, num_steps=steps, trainer_batch_size=1, **settings).start()
  hand = Hand(learner)
  for step in range(first, steps):
    while hand.reply is not None and hand.reply.step < step:
      hand.reply = learner.server.exchange(0, hand.restart)
    hand.send(float(step + 1))
  return learner.finish()


def _leaves(folder):
  return {name: leaf.tobytes() for name, leaf in checkpoint.load_state(folder)["learner"].items()}


def test_a_run_leaves_its_files_and_the_last_theta(tmp_path, capsys):
  folder = tmp_path / "run"
  assert _train(folder, 4) == {"state": "finished", "step": 4}
  names = {path.name for path in folder.iterdir() if "tfevents" not in path.name}
  assert names == {
    "checkpoint_0",
    "checkpoint_4",
    "config.gin",
    "curve.csv",
    "curve.png",
    "restarts.json",
    "params",
    "status.json",
    "summary.json",
  }
  with open(folder / "curve.csv", newline="") as stream:
    rows = list(csv.DictReader(stream))
  assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
  assert [row["loss/set"] for row in rows] == ["0.5"] * 4
  assert json.loads((folder / "summary.json").read_text())["outer_steps"] == 4
  # Gradient descent at 1/8 along 1 + 2 + 3 + 4.
  state = checkpoint.load_state(folder)["learner"]
  with_params = [leaf for name, leaf in sorted(state.items()) if ".params" in name]
  start = checkpoint.read_state(folder / "checkpoint_0")["learner"]
  before = [leaf for name, leaf in sorted(start.items()) if ".params" in name]
  assert with_params
  for old, new in zip(before, with_params, strict=True):
    np.testing.assert_allclose(new, old - 1.25, rtol=1e-6)
  assert status.run(type("", (), {"folder": str(folder)})) == 0
  shown = capsys.readouterr().out
  assert "finished: update 4/4" in shown
  assert "gradients  4 used" in shown
  assert "refused    none" in shown


def test_a_learner_that_goes_on_is_bit_for_bit_one_without_a_break(tmp_path):
  _train(tmp_path / "straight", 6)
  _train(tmp_path / "broken", 3)
  assert _train(tmp_path / "broken", 6, first=3) == {"state": "finished", "step": 6}
  assert _leaves(tmp_path / "broken") == _leaves(tmp_path / "straight")
  saved = checkpoint.load_state(tmp_path / "broken")["worker_statistics"]
  assert saved["accepted"] == 6
  assert saved["sequences"] == {"0": [1, 2]}  # The second process's third gradient.


def test_a_stopped_learner_saves_what_it_has(tmp_path):
  folder = tmp_path / "run"
  learner = Learner(folder, num_steps=100, trainer_batch_size=1).start()
  hand = Hand(learner)
  hand.send()
  while hand.reply.step < 1:
    hand.reply = learner.server.exchange(0, hand.restart)
  learner.server.stop()
  assert learner.finish() == {"state": "stopped", "step": 1}
  assert checkpoint.load_state(folder)["step"] == 1
  # Workers that call now are sent home, and none can join.
  assert hand.send() is None
  assert learner.join(1) == -1


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path):
  folder = tmp_path / "run"
  _train(folder, 3)
  with open(folder / "checkpoint_3", "r+b") as stream:
    stream.truncate(100)
  with pytest.warns(UserWarning, match=r"checkpoint_3 is damaged .*; trying the one before it"):
    learner = Learner(folder, num_steps=5)
  assert learner.session.store.step == 0


def test_a_full_disk_stops_nothing_and_is_made_up_for(tmp_path):
  folder = tmp_path / "run"
  gin.parse_config("distributed.checkpoint_every_updates = 1")
  learner = Learner(folder, num_steps=3, trainer_batch_size=1).start()
  hand = Hand(learner)
  with largest_file(100):
    hand.send()
    while hand.reply.step < 1:
      hand.reply = learner.server.exchange(0, hand.restart)
    hand.send()
    while hand.reply.step < 2 or not (report := learner.server.report())["problem"]:
      hand.reply = learner.server.exchange(0, hand.restart)
    assert report["saved_step"] == 0
    assert "File too large" in report["problem"]
    assert "PROBLEM" in table.render(report)
  hand.send()
  assert learner.finish() == {"state": "finished", "step": 3}
  assert checkpoint.load_state(folder)["step"] == 3
  with open(folder / "curve.csv", newline="") as stream:
    assert [row["step"] for row in csv.DictReader(stream)] == ["1", "2", "3"]


def test_a_disk_that_stays_full_is_an_error_that_keeps_the_last_checkpoint(tmp_path):
  folder = tmp_path / "run"
  learner = Learner(folder, num_steps=1, trainer_batch_size=1).start()
  hand = Hand(learner)
  with largest_file(100):
    hand.send()
    error = learner.finish()
  assert isinstance(error, UnsupRuleError)
  assert f"cannot write {folder}/checkpoint_1: File too large; free space" in str(error)
  assert checkpoint.load_state(folder)["step"] == 0


def test_an_update_that_is_not_finite_is_not_made(tmp_path):
  learner = Learner(tmp_path / "run", num_steps=3, trainer_batch_size=1, learning_rate=16.0)
  with learner.start().stopping():
    hand = Hand(learner)
    hand.send(1e38)  # Finite, but not sixteen times.
    while not (report := learner.server.report())["refused_updates"]:
      pass
    assert (report["refused_updates"], report["step"]) == (1, 0)
    assert "1 not made" in table.render(report)
    before = _theta(learner)
    hand.send(1.0)
    while hand.reply.step < 1:
      hand.reply = learner.server.exchange(0, hand.restart)
    np.testing.assert_allclose(_theta(learner), before - 16)


def test_updates_that_are_never_finite_end_the_run(tmp_path):
  gin.parse_config("trainer.max_consecutive_nonfinite = 2")
  learner = Learner(tmp_path / "run", num_steps=9, trainer_batch_size=1, learning_rate=16.0).start()
  hand = Hand(learner)
  hand.send(1e38)
  hand.send(1e38)
  error = learner.finish()
  assert str(error).startswith("the update of theta was not finite 2 times in a row; theta of")


def _theta(learner):
  leaves = jax.tree_util.tree_leaves(learner.session.store.theta)
  return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_another_seed_is_refused(tmp_path):
  _train(tmp_path / "run", 1)
  gin.parse_config("trainer.seed = 5")
  with pytest.raises(UnsupRuleError, match=r"was not made with trainer\.seed = 5"):
    Learner(tmp_path / "run")


def test_restart_counts_outlive_their_process(tmp_path):
  first = RestartCounts(tmp_path)
  assert [first.next("worker 0"), first.next("worker 0"), first.next("worker 1")] == [0, 1, 0]
  again = RestartCounts(tmp_path)
  assert again.current("worker 0") == 1
  assert again.current("worker 2") == -1
  assert again.next("worker 0") == 2
