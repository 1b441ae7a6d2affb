"""The training loop around outer steps: files, limits, signals and failures."""

import csv
import json
import os
import signal
import sys
import types

import jax
import matplotlib.image
import meta_problems
import numpy as np
import pytest
from learned_optimization.learned_optimizers import base as lopt_base

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, curve
from unsup_rule.meta import summary as summary_module
from unsup_rule.meta.events import EventWriter
from unsup_rule.meta.heldout import HeldOut
from unsup_rule.meta.loop import train
from unsup_rule.meta.options import TrainerOptions


def _train(folder, estimator=None, trainer=None, **run):
  def sample(lopt, key, number):
    return [estimator or meta_problems.FakeEstimator() for _ in range(number)]

  run = {"num_steps": 4, "summary_every_n": 2, **run}
  train(folder, meta_problems.settings(sample, trainer=trainer, **run))


_MEASURED = {"heldout_fn": meta_problems.size_of_theta}


def _rows(folder):
  with open(folder / "curve.csv", newline="") as stream:
    return list(csv.DictReader(stream))


def _scalars(folder, monkeypatch):
  """What TensorBoard shows: tag -> [(step, value), ...]."""
  # Tells tensorboard to do without TensorFlow, which takes long to import.
  monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))
  from tensorboard.backend.event_processing import event_accumulator

  accumulator = event_accumulator.EventAccumulator(str(folder))
  accumulator.Reload()
  return {
    tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
    for tag in accumulator.Tags()["scalars"]
  }


def test_a_run_leaves_its_files(tmp_path, monkeypatch, capsys):
  _train(tmp_path / "run", trainer=_MEASURED)
  folder = tmp_path / "run"
  assert sorted(path.name for path in folder.iterdir() if "tfevents" not in path.name) == [
    ".lock",
    "checkpoint_0",
    "checkpoint_4",
    "config.gin",
    "curve.csv",
    "curve.png",
    "params",
    "summary.json",
  ]
  assert (folder / "config.gin").read_text() == "# The configuration.\n"
  assert [int(row["step"]) for row in _rows(folder)] == [1, 2, 3, 4]
  assert [float(row["loss"]) for row in _rows(folder)] == [1.5] * 4
  lopt = lopt_base.LearnableAdam()
  theta = checkpoint.load_theta(folder, lopt.init(jax.random.PRNGKey(0)))
  summary = json.loads((folder / "summary.json").read_text())
  assert summary["outer_steps"] == 4
  assert summary["dropped_gradients"] == 0
  assert summary["standard_error"] == 0.25
  assert summary["heldout_accuracy_after"] == pytest.approx(
    meta_problems.size_of_theta(None, theta)["accuracy"], rel=1e-6
  )
  assert summary["heldout_accuracy_before"] != summary["heldout_accuracy_after"]
  assert summary["seconds"] == pytest.approx(float(_rows(folder)[-1]["seconds"]), abs=5)
  assert summary_module.describe(folder).startswith(f"{folder}/summary.json: 4 outer steps in ")
  assert "(standard error 0.250) after" in summary_module.describe(folder)
  scalars = _scalars(folder, monkeypatch)
  assert scalars["meta_loss"] == [(step, 1.5) for step in (1, 2, 3, 4)]
  assert scalars["meta_loss/fake_family"] == [(2, 1.5), (4, 1.5)]
  assert {"gradient_norm", "theta_mean_abs", "steps_per_second"} < set(scalars)
  assert "step 4/4: meta-loss 1.5, 00:00 left, 0 dropped" in capsys.readouterr().err


def test_a_complete_run_returns_and_a_longer_one_goes_on(tmp_path):
  _train(tmp_path, trainer=_MEASURED)
  before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".lock"}
  first = json.loads((tmp_path / "summary.json").read_text())
  idle = meta_problems.FakeEstimator()
  _train(tmp_path, idle, trainer=_MEASURED)
  assert idle.calls == idle.inits == 0
  assert before == {
    path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".lock"
  }
  _train(tmp_path, trainer=_MEASURED, num_steps=7)
  assert [int(row["step"]) for row in _rows(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
  longer = json.loads((tmp_path / "summary.json").read_text())
  assert longer["outer_steps"] == 7
  assert longer["heldout_accuracy_before"] == first["heldout_accuracy_before"]
  assert longer["heldout_accuracy_after"] != first["heldout_accuracy_after"]
  assert longer["seconds"] > first["seconds"]


def test_a_complete_run_that_is_started_again_repairs_its_theta(tmp_path):
  _train(tmp_path, trainer=_MEASURED)
  files = [tmp_path / name for name in ("params", "summary.json")]
  before = [path.read_bytes() for path in files]
  files[0].write_bytes(before[0][:-1] + bytes([before[0][-1] ^ 1]))
  idle = meta_problems.FakeEstimator()
  _train(tmp_path, idle, trainer=_MEASURED)
  assert idle.calls == 0
  assert [path.read_bytes() for path in files] == before


def test_a_summary_that_a_kill_prevented_is_made_up_for(tmp_path):
  _train(tmp_path)
  (tmp_path / "summary.json").unlink()
  idle = meta_problems.FakeEstimator()
  _train(tmp_path, idle)
  assert idle.calls == 0
  assert json.loads((tmp_path / "summary.json").read_text())["outer_steps"] == 4


def test_time_limit_counts_over_sessions(tmp_path):
  def slow(unused_call):
    import time

    time.sleep(0.05)

  _train(tmp_path, meta_problems.FakeEstimator(on_call=slow), num_steps=10_000, num_seconds=0.3)
  steps = json.loads((tmp_path / "summary.json").read_text())["outer_steps"]
  assert 1 <= steps <= 6
  idle = meta_problems.FakeEstimator()
  _train(tmp_path, idle, num_steps=10_000, num_seconds=0.3)
  assert idle.calls == 0


@pytest.mark.parametrize(
  ("number", "raised"),
  [
    (signal.SIGINT, KeyboardInterrupt),
    (signal.SIGTERM, SystemExit),
    (signal.SIGHUP, SystemExit),
  ],
)
def test_a_signal_ends_after_the_step_with_all_saved(tmp_path, number, raised):
  def send(call):
    if call == 3:
      os.kill(os.getpid(), number)

  handler = signal.getsignal(number)
  with pytest.raises(raised) as caught:
    _train(tmp_path, meta_problems.FakeEstimator(on_call=send), num_steps=10)
  if raised is SystemExit:
    assert caught.value.code == 128 + number
  assert signal.getsignal(number) is handler
  assert checkpoint.load_state(tmp_path)["step"] == 3
  assert not (tmp_path / "summary.json").exists()
  _train(tmp_path, num_steps=5)
  assert [int(row["step"]) for row in _rows(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_second_interrupt_ends_at_once(tmp_path):
  def send(call):
    if call == 3:
      os.kill(os.getpid(), signal.SIGINT)
      os.kill(os.getpid(), signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    _train(tmp_path, meta_problems.FakeEstimator(on_call=send), num_steps=10)
  assert checkpoint.load_state(tmp_path)["step"] == 0


def test_checkpoints_are_written_as_time_goes_by(tmp_path):
  def fail(call):
    if call == 4:
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    _train(
      tmp_path,
      meta_problems.FakeEstimator(on_call=fail),
      trainer={"checkpoint_every_seconds": 1e-9},
      num_steps=10,
    )
  assert checkpoint.load_state(tmp_path)["step"] == 3


def test_a_run_of_bad_gradients_stops_with_the_last_good_theta(tmp_path):
  bad = meta_problems.FakeEstimator(bad_calls=(1, 3, 4, 6, 7, 8, 9))
  with pytest.raises(UnsupRuleError, match="of task family fake_family was not finite 3 times"):
    _train(tmp_path, bad, trainer={"max_consecutive_nonfinite": 3}, num_steps=20)
  state = checkpoint.load_state(tmp_path)
  assert (state["step"], state["dropped"]) == (8, 6)
  assert [int(row["dropped"]) for row in _rows(tmp_path)] == [1, 0, 1, 1, 0, 1, 1, 1]
  # Steps 2 and 5 were the good ones, of 1/8 each.
  moved = jax.tree_util.tree_map(lambda x: x - 0.25, lopt_base.LearnableAdam().init(_theta_key()))
  theta = checkpoint.load_theta(tmp_path, moved)
  for found, wanted in zip(
    jax.tree_util.tree_leaves(theta), jax.tree_util.tree_leaves(moved), strict=True
  ):
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def _theta_key():
  # LearnableAdam's theta does not depend on the key.
  return jax.random.PRNGKey(0)


def test_params_of_another_kind_are_not_overwritten(tmp_path):
  (tmp_path / "params").write_bytes(b"precious")
  with pytest.raises(UnsupRuleError, match="holds params but no checkpoint"):
    _train(tmp_path)
  assert (tmp_path / "params").read_bytes() == b"precious"


def test_another_configuration_leaves_the_folder_as_it_is(tmp_path):
  _train(tmp_path)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  with pytest.raises(UnsupRuleError, match=r"num_estimators is 2; .* another --train_log_dir"):
    _train(tmp_path, num_steps=9, num_estimators=2)
  assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
  "options", [{"checkpoint_every_seconds": 0}, {"max_consecutive_nonfinite": -1}]
)
def test_options_are_checked(options):
  with pytest.raises(UnsupRuleError, match=r"^trainer\.\w+ is .*; give a positive number"):
    TrainerOptions(**options)


def test_a_heldout_function_must_return_an_error_bar(tmp_path):
  with pytest.raises(UnsupRuleError, match="returned no 'standard_error'"):
    _train(tmp_path, trainer={"heldout_fn": lambda lopt, theta: {"accuracy": 1.0}})


def test_validation_is_in_curve_and_events_and_warns_where_it_falls(tmp_path, monkeypatch, capsys):
  found = iter([0.5, 0.75, 0.25])

  def measure(lopt, theta):
    return {"accuracy": next(found), "standard_error": 0.125}

  options = {"validation_fn": measure, "validation_every_steps": 2}
  _train(tmp_path, trainer=options)
  assert [row["validation"] for row in _rows(tmp_path)] == ["", "0.5", "", "0.75"]
  assert "warning" not in capsys.readouterr().err
  _train(tmp_path, trainer=options, num_steps=6)  # The best so far is remembered.
  assert [row["validation"] for row in _rows(tmp_path)][4:] == ["", "0.25"]
  error = capsys.readouterr().err
  assert "step 6: validation 0.250 (standard error 0.125); it was 0.750: a smaller" in error
  assert _scalars(tmp_path, monkeypatch)["validation"] == [(2, 0.5), (4, 0.75), (6, 0.25)]


@pytest.mark.parametrize("phases", [{0: ["a = 1"]}, {2: "a = 1"}, {"2": ["a = 1"]}])
def test_phases_are_checked(phases):
  with pytest.raises(UnsupRuleError, match=r"^trainer.phases has .*give outer steps from 1 up"):
    TrainerOptions(phases=phases)


def test_events_of_a_killed_session_beyond_the_checkpoint_are_dropped(tmp_path, monkeypatch):
  for first, steps in ((1, range(1, 7)), (4, range(4, 6))):
    writer = EventWriter(tmp_path, first)
    for step in steps:
      writer.scalars(step, {"meta_loss": 10.0 * first + step})
    # No close(): a kill gives no time for it.
  assert _scalars(tmp_path, monkeypatch)["meta_loss"] == [
    (1, 11),
    (2, 12),
    (3, 13),
    (4, 44),
    (5, 45),
  ]


def test_curve_of_a_killed_session_is_cut_back(tmp_path):
  rows = curve.Curve(tmp_path, 0)
  for step in (1, 2, 3):
    rows.add(
      step=step, seconds=0.5 * step, loss=1 / 3, gradient_norm=np.nan, theta_mean_abs=1.0, dropped=0
    )
  rows.close()
  with open(tmp_path / "curve.csv", "a") as stream:
    stream.write("4,2.0,0.3")
  again = curve.Curve(tmp_path, 2)
  again.close()
  assert (tmp_path / "curve.csv").read_text() == (
    "step,seconds,loss,gradient_norm,theta_mean_abs,dropped\n"
    "1,0.5,0.3333333,nan,1,0\n2,1,0.3333333,nan,1,0\n"
  )


@pytest.mark.parametrize("damage", [b"\nfo\xff,", b"\nfour,"])
def test_a_damaged_curve_is_put_aside(tmp_path, damage):
  _train(tmp_path)
  path = tmp_path / "curve.csv"
  path.write_bytes(path.read_bytes().replace(b"\n4,", damage))
  with pytest.warns(UserWarning, match=r"curve\.csv is damaged .* it is .*damaged_curve\.csv now"):
    _train(tmp_path, num_steps=6)
  assert [int(row["step"]) for row in _rows(tmp_path)] == [5, 6]
  assert (tmp_path / "damaged_curve.csv").stat().st_size > 100


def test_moving_average_by_hand():
  # Span 3 halves the weight of each older value; NaN changes nothing.
  np.testing.assert_allclose(
    curve.smoothed([4.0, np.nan, 1.0, 1.0], 3), [4, 4, (2 + 1) / 1.5, (1 + 0.5 + 1) / 1.75]
  )
  assert np.isnan(curve.smoothed([np.nan], 3)[0])


def test_the_drawing_shows_the_curve(tmp_path):
  rows = curve.Curve(tmp_path, 0)
  for step in range(1, 40):
    rows.add(
      step=step,
      seconds=float(step),
      loss=3 - step / 20,
      gradient_norm=1 / step,
      theta_mean_abs=1.0,
      dropped=int(step == 20),
    )
  rows.close()
  curve.draw(tmp_path, "rule")
  image = matplotlib.image.imread(tmp_path / "curve.png")[..., :3]
  assert image.shape == (720, 960, 3)
  # A red line for the dropped gradient, and blue ones over most of the width.
  red, blue = (
    np.abs(image - colour).sum(-1) < 0.15
    for colour in (0.4 * np.array([0.839, 0.153, 0.157]) + 0.6, np.array([0.122, 0.467, 0.706]))
  )
  assert red.any()
  assert np.ptp(np.flatnonzero(blue.any(0))) > 0.7 * 960


@pytest.mark.parametrize("norm", [0.0, np.nan])
def test_a_run_without_gradients_is_drawn(tmp_path, norm):
  """A logarithmic axis has no place for them."""
  rows = curve.Curve(tmp_path, 0)
  rows.add(step=1, seconds=1.0, loss=1.0, gradient_norm=norm, theta_mean_abs=1.0, dropped=0)
  rows.close()
  curve.draw(tmp_path, "rule")
  assert matplotlib.image.imread(tmp_path / "curve.png").shape[:2] == (720, 960)


@pytest.mark.parametrize("name", ["heldout_fn", "validation_fn"])
def test_what_would_fail_at_the_end_fails_before_the_first_step(tmp_path, name):
  with pytest.raises(UnsupRuleError, match="unknown data set 'minst'"):
    _train(tmp_path / "run", trainer={name: HeldOut("minst")})
  assert not list(tmp_path.iterdir())
