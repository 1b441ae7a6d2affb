"""Properties over drawn inputs: damage to every file format, types of parameters."""

import pathlib
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from unsup_rule import UnsupervisedFeatures, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.store import Store
from unsup_rule.meta import checkpoint

few = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
_ARRAYS = {"a": np.arange(24, dtype=np.float32).reshape(4, 6), "b": np.arange(5)}
_STATE = {"step": 3, "learner": {"theta": _ARRAYS["a"], "count": 7}}
_ROW = {"key": "k", "status": "ok", "measurements": [{"step": 0, "cv": [0.5, 0.75]}]}


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


def _recording(path):
  _same(storage.read_npz(path), _ARRAYS)


def _checkpoint(path):
  found = checkpoint.read_state(path)
  assert found["step"] == 3
  _same(found["learner"], _STATE["learner"])


def _results(path):
  assert Store(path.parent).get("k") in (None, _ROW)


FORMATS = {
  "container": (
    "c.npz",
    lambda path: storage.Container("checkpoint", 2, _ARRAYS, {"about": "größer"}).write(path),
    _container,
  ),
  "recording": ("r.npz", lambda path: np.savez_compressed(path, **_ARRAYS), _recording),
  "checkpoint": (
    "checkpoint_3",
    lambda path: checkpoint.save_state(path.parent, 3, _STATE),
    _checkpoint,
  ),
  "results": ("results.jsonl", lambda path: Store(path.parent).add(_ROW), _results),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore:1 rows of")
@few
@hypothesis.given(damage=damages())
def test_a_damaged_file_is_refused_or_as_it_was(name, damage):
  file, write, check = FORMATS[name]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / file
    write(path)
    check(path)
    path.write_bytes(damage(path.read_bytes()))
    message = ""
    try:
      check(path)
    except UnsupRuleError as error:
      message = str(error)
    assert not message or str(path) in message
    assert "\n" not in message


not_counts = st.one_of(
  st.text(), st.floats(allow_nan=True), st.integers(max_value=0), st.lists(st.text(), min_size=1)
)


@pytest.mark.parametrize("name", ["hidden", "batch_size", "n_features"])
@few
@hypothesis.given(value=not_counts)
def test_a_parameter_of_another_type_is_refused_before_any_work(name, value):
  features = UnsupervisedFeatures(**{name: value})
  with pytest.raises(ValueError, match=name):
    features.fit(np.zeros((20, 3)))
  with pytest.raises(NotFittedError):
    check_is_fitted(features)
