"""Every file format under random damage, and with something else in a file's place."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import tempfile
import warnings

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from learned_optimization.learned_optimizers import base as lopt_base
from rule_helpers import SMALLEST, drawn_theta

import unsup_rule
from unsup_rule import storage
from unsup_rule.cli import verify
from unsup_rule.cli.main import main
from unsup_rule.data import Dataset, cache, sets
from unsup_rule.distributed import history
from unsup_rule.distributed.statistics import RestartCounts, WorkerStatistics
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.store import Store
from unsup_rule.meta import checkpoint, curve, summary
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.weights import run_folder
from unsup_rule.weights.archive import Archive, Use

_ARRAYS = {"a": np.arange(24, dtype=np.float32).reshape(4, 6), "b": np.arange(5)}
_STATE = {"step": 3, "learner": {"theta": _ARRAYS["a"], "count": 7}}
_ROW = {"key": "k", "status": "ok", "measurements": [{"step": 0, "cv": [0.5, 0.75]}]}
_MEASURED = {"accuracy": 0.5, "standard_error": 0.1}
_LOPT = lopt_base.LearnableSGD()
_KEY = hashlib.sha256(b"4 key").hexdigest()[:32]  # Of the file that is for "key".
_DATASET = Dataset.build(
  "some", "train", np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1), [0, 0, 1, 1], "ab", 0.5
)
_RULE = Archive(
  jax.tree.map(np.asarray, drawn_theta(SMALLEST)), InnerSchedule(0.5), Use(2, 3), {"seed": 4}
)


@st.composite
def damages(draw):
  """A function of a file's bytes: some are changed, then perhaps the end is missing."""
  places = draw(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4)
  )
  kept = draw(st.one_of(st.just(1.0), st.floats(0, 1)))

  def damage(content):
    content = bytearray(content)
    for place, change in places:
      content[int(place * len(content))] ^= change
    return bytes(content[: int(kept * len(content))])

  return damage


def _same(found, wanted):
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)


def _container(path):
  found = storage.Container.read(path, "checkpoint", [2])
  _same(found.arrays, _ARRAYS)
  assert found.values == {"about": "größer"}


def _checkpoint(path):
  found = checkpoint.read_state(path)
  assert found["step"] == 3
  _same(found["learner"], _STATE["learner"])


def _results(path):
  assert Store(path.parent).get("k") in (None, _ROW)


def _same_rule(found):
  assert (found.schedule, found.use) == (_RULE.schedule, _RULE.use)
  jax.tree.map(np.testing.assert_array_equal, found.theta, _RULE.theta)


def _write_card(path):
  _RULE.write(path.with_suffix(".npz"))
  path.write_text("# Größen\n")


def _card(path):
  _same_rule(unsup_rule.pretrained(path.with_suffix(".npz")))


def _same_data(found):
  np.testing.assert_array_equal(found.images, _DATASET.images)
  np.testing.assert_array_equal(found.labels, _DATASET.labels)


def _cached(path):
  _same_data(cache.cached("key", path.parent, lambda: _DATASET))


def _write_curve(path):
  rows = curve.Curve(path.parent, 0)
  for step in (1, 2):
    rows.add(step=step, seconds=1.5, loss=0.5, gradient_norm=2.0, theta_mean_abs=0.1, dropped=0)
  rows.close()


def _curve(path):
  """It is there to be looked at, and never a reason to end a run."""
  curve.Curve(path.parent, 2).close()
  assert path.read_text(encoding="utf-8")


def _write_status(path):
  statistics = WorkerStatistics()
  statistics.joined(0, 0, {"host": "here", "pid": 1, "core": None})
  report = {"state": "running", "step": 3, "waiting": 0, "batch_size": 1, "staleness_mean": 0.5}
  report |= {"staleness_max": 1, "staleness_bound": 4, "learner_restarts": 0}
  storage.write_text(path, json.dumps(report | statistics.report()))


def _status(path):
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
    code = main(["status", str(path.parent)])
  if code:
    raise UnsupRuleError(said.getvalue().strip())


def _write_summary(path):
  summary.write(path.parent, _LOPT, {}, {}, lambda lopt, theta: _MEASURED, 3, 1.5, 0)


def _summary(path):
  if summary.is_current(path.parent, 3):
    assert summary.describe(path.parent)
  summary.describe(path.parent)


def _write_finished(path):
  run_folder.write(path.parent, _RULE)
  _write_summary(path)


def _finished(path):
  _same_rule(run_folder.read(path.parent))


def _write_restarts(path):
  RestartCounts(path.parent).next("worker_0")


def _write_history(path):
  for member in (0, 1):
    history.add(path.parent, member, "g", ("p", 2), 3, 0.5, ["Adam.learning_rate = 0.1"])


def _history(path):
  history.describe_best(path.parent)


# Name of the file, what writes it, and what reads it and checks it where that can be done.
FORMATS = {
  "container": (
    "c.npz",
    lambda path: storage.Container("checkpoint", 2, _ARRAYS, {"about": "größer"}).write(path),
    _container,
  ),
  "recording": (
    "r.npz",
    lambda path: np.savez_compressed(path, **_ARRAYS),
    lambda path: _same(verify.read_arrays(path), _ARRAYS),
  ),
  "checkpoint": (
    "checkpoint_3",
    lambda path: checkpoint.save_state(path.parent, 3, _STATE),
    _checkpoint,
  ),
  "results": ("results.jsonl", lambda path: Store(path.parent).add(_ROW), _results),
  "rule": ("a.npz", _RULE.write, lambda path: _same_rule(Archive.read(path))),
  "card": ("a.md", _write_card, _card),
  "cached data set": (f"{_KEY}.npz", lambda path: cache.write(path, _DATASET, "key"), _cached),
  "packed data set": (
    "some-train.npz",
    lambda path: cache.write(path, _DATASET, path.stem),
    lambda path: _same_data(sets.load("some", "train", files=path.parent)),
  ),
  "curve": ("curve.csv", _write_curve, _curve),
  "status": ("status.json", _write_status, _status),
  "summary": ("summary.json", _write_summary, _summary),
  "summary of a rule": ("summary.json", _write_finished, _finished),
  "restarts": ("restarts.json", _write_restarts, lambda path: RestartCounts(path.parent).next("x")),
  "history": ("history.csv", _write_history, _history),
}
_NEVER_REFUSED = {"curve", "card", "cached data set"}


def _outcome(name, path):
  """What the reader says in one line, "" where it is content."""
  message = ""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
      FORMATS[name][2](path)
    except UnsupRuleError as error:
      message = str(error).split("\n  In call to configurable")[0]  # gin adds that.
  assert not message or str(path) in message
  assert "\n" not in message
  return message


@pytest.mark.parametrize("name", FORMATS)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
@hypothesis.given(damage=damages())
def test_a_damaged_file_is_refused_or_as_it_was(name, damage):
  file, write, _ = FORMATS[name]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / file
    write(path)
    assert not _outcome(name, path)
    path.write_bytes(damage(path.read_bytes()))
    assert not _outcome(name, path) or name not in _NEVER_REFUSED


@pytest.mark.parametrize("place", [os.mkdir, os.mkfifo])
# Of a container its readers say in a line what the system says.
@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"container"}))
def test_what_is_no_file_is_not_waited_for(name, place, tmp_path):
  file, write, _ = FORMATS[name]
  path = tmp_path / file
  write(path)
  path.unlink()
  place(path)
  assert bool(_outcome(name, path)) == (name not in _NEVER_REFUSED)
