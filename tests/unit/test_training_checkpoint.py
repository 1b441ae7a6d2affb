"""Files of a run: exact, atomic, and clear about damage."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from fault_helpers import largest_file

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, lock, trees

_THETA = {"net": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.float32)}}


def _truncate(path, size):
  with open(path, "r+b") as stream:
    stream.truncate(size)


@pytest.mark.parametrize("name", ["", "params"])
def test_theta_comes_back_from_folder_and_from_file(tmp_path, name):
  checkpoint.save_params(tmp_path, _THETA, step=7)
  loaded = checkpoint.load_theta(tmp_path / name, _THETA)
  np.testing.assert_array_equal(loaded["net"]["w"], [[0, 1, 2], [3, 4, 5]])
  assert loaded["net"]["b"].dtype == jnp.float32


@pytest.mark.parametrize(
  ("like", "message"),
  [
    (
      {"net": {"w": np.zeros((2, 4), np.float32), "b": np.zeros(3, np.float32)}},
      r"leaf \['net'\]\['w'\] is float32\[2, 3\], expected float32\[2, 4\]",
    ),
    (
      {"net": {"w": np.zeros((2, 3), np.int32), "b": np.zeros(3, np.float32)}},
      r"leaf \['net'\]\['w'\] is float32\[2, 3\], expected int32\[2, 3\]",
    ),
    (
      {"net": {"weight": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}},
      r"has no leaf \['net'\]\['weight'\] float32\[2, 3\]",
    ),
    ({"net": {"b": np.zeros(3, np.float32)}}, r"a leaf too many, \['net'\]\['w'\]"),
  ],
)
def test_theta_that_does_not_fit_names_the_first_leaf(tmp_path, like, message):
  checkpoint.save_params(tmp_path, _THETA, step=0)
  with pytest.raises(UnsupRuleError, match=message):
    checkpoint.load_theta(tmp_path, like)


def test_damaged_theta_is_refused(tmp_path):
  checkpoint.save_params(tmp_path, _THETA, step=0)
  whole = (tmp_path / "params").read_bytes()
  # Whatever the place of the cut, and what was never a params file at all.
  for content in [whole[:size] for size in range(len(whole))] + [b"nonsense", whole + b"x"]:
    (tmp_path / "params").write_bytes(content)
    with pytest.raises(UnsupRuleError, match="damaged"):
      checkpoint.load_theta(tmp_path, _THETA)
  with pytest.raises(UnsupRuleError, match=r"cannot read theta from .*nowhere"):
    checkpoint.load_theta(tmp_path / "nowhere", _THETA)


def test_theta_that_is_not_finite_is_refused(tmp_path):
  checkpoint.save_params(tmp_path, {"w": np.asarray([1, np.inf], np.float32)}, step=0)
  with pytest.raises(UnsupRuleError, match="not finite"):
    checkpoint.load_theta(tmp_path, {"w": np.zeros(2, np.float32)})


def test_state_keeps_every_bit_and_two_files(tmp_path):
  values = {
    "f": np.asarray([0.1, np.nan, -0.0], np.float32),
    "k": np.asarray([7, 2**32 - 1], np.uint32),
    "b": np.asarray(jnp.asarray([1.5, -3], jnp.bfloat16)),
  }
  for step in (0, 5, 10):
    checkpoint.save_state(tmp_path, step, {"step": step, "values": values, "seconds": 0.1})
  assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_10", "checkpoint_5"]
  loaded = checkpoint.load_state(tmp_path)
  assert loaded["step"] == 10
  assert loaded["seconds"] == 0.1
  for name, value in values.items():
    assert loaded["values"][name].dtype == value.dtype
    assert loaded["values"][name].tobytes() == value.tobytes()


def test_no_state_in_an_empty_folder(tmp_path):
  assert checkpoint.load_state(tmp_path) is None
  assert checkpoint.load_state(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_the_checkpoint_before_a_damaged_one_is_used_with_a_warning(tmp_path, damage):
  for step in (4, 8):
    checkpoint.save_state(tmp_path, step, {"step": step, "x": np.ones(100)})
  newest = tmp_path / "checkpoint_8"
  if damage == "flipped":
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
  else:
    _truncate(newest, 0 if damage == "empty" else 200)
  with pytest.warns(UserWarning, match="checkpoint_8 is damaged"):
    assert checkpoint.load_state(tmp_path)["step"] == 4
  # Once the run goes on, the damaged one does not stay in front of the sound ones.
  damaged = newest.read_bytes()
  checkpoint.save_state(tmp_path, 5, {"step": 5})
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "checkpoint_4",
    "checkpoint_5",
    "damaged_checkpoint_8",
  ]
  assert (tmp_path / "damaged_checkpoint_8").read_bytes() == damaged


def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(tmp_path):
  checkpoint.save_state(tmp_path, 4, {"step": 4})
  (tmp_path / "checkpoint_8").mkdir()
  with pytest.raises(UnsupRuleError, match=r"cannot read .*checkpoint_8: .*; make it readable, or"):
    checkpoint.load_state(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_4", "checkpoint_8"]


def test_only_damaged_checkpoints_is_an_error(tmp_path):
  checkpoint.save_state(tmp_path, 4, {"step": 4})
  _truncate(tmp_path / "checkpoint_4", 10)
  with (
    pytest.warns(UserWarning, match="damaged"),
    pytest.raises(UnsupRuleError, match="every checkpoint in"),
  ):
    checkpoint.load_state(tmp_path)


@pytest.mark.parametrize(("format", "message"), [(1, "by an earlier version"), (9, "reads 2")])
def test_checkpoint_of_another_format_is_not_taken_for_damaged(tmp_path, format, message):
  path = tmp_path / "checkpoint_4"
  if format == 1:
    path.write_bytes(b"unsup-rule state 1 abc\npayload")
  else:
    storage.Container("checkpoint", format, {}, {"state": {}}).write(path)
  with pytest.raises(UnsupRuleError, match=f"has format {format}, .*{message}"):
    checkpoint.load_state(tmp_path)


@pytest.mark.parametrize("kind", ["rule", "dataset"])
def test_a_file_of_another_kind_is_no_checkpoint(tmp_path, kind):
  storage.Container(kind, 2, {}, {}).write(tmp_path / "checkpoint_4")
  with pytest.raises(UnsupRuleError, match=f"it is a {kind}, not a checkpoint"):
    checkpoint.read_state(tmp_path / "checkpoint_4")


def test_sizes_are_checked_before_anything_is_allocated(tmp_path):
  """A header may claim what it likes: nothing is read that the file has not."""
  path = tmp_path / "checkpoint_4"
  storage.Container("checkpoint", 2, {"x": np.ones(7)}, {"state": {}}).write(path)
  content = path.read_bytes()
  path.write_bytes(content.replace(b"(7,), }" + b" " * 12, b"(7000000000000,), }"))
  assert path.read_bytes() != content
  with pytest.raises(UnsupRuleError, match="is damaged"):
    checkpoint.read_state(path)


def test_full_disk_leaves_the_old_files(tmp_path):
  checkpoint.save_state(tmp_path, 4, {"step": 4})
  checkpoint.save_params(tmp_path, _THETA, step=4)
  with largest_file(1000):
    with pytest.raises(UnsupRuleError, match=r"cannot write .*checkpoint_8: File too large"):
      checkpoint.save_state(tmp_path, 8, {"step": 8, "x": np.ones(1000)})
    with pytest.raises(UnsupRuleError, match=r"cannot write .*params"):
      checkpoint.save_params(tmp_path, {"w": np.ones(1000)}, step=8)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_4", "params"]
  assert checkpoint.load_state(tmp_path)["step"] == 4
  assert checkpoint.load_theta(tmp_path, _THETA)["net"]["w"][1, 2] == 5


def test_one_run_at_a_time_in_a_folder(tmp_path):
  with (
    lock.exclusive(tmp_path / "run"),
    pytest.raises(UnsupRuleError, match="another process trains in"),
    lock.exclusive(tmp_path / "run"),
  ):
    pass
  with lock.exclusive(tmp_path / "run"):
    pass


def test_what_killed_processes_had_begun_is_removed(tmp_path):
  code = (
    "import os, signal, sys\nfrom unsup_rule import storage\n"
    "with storage.atomic_open(sys.argv[1]) as stream:\n"
    "  stream.write(b'half'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  subprocess.run([sys.executable, "-c", code, str(tmp_path / "params")], check=False)
  assert len(list(tmp_path.iterdir())) == 1
  with lock.exclusive(tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
  with lock.exclusive(tmp_path):  # It was let go of.
    pass


def test_a_hold_that_writes_nothing_leaves_nothing(tmp_path):
  with pytest.raises(UnsupRuleError), lock.exclusive(tmp_path / "runs" / "a"):
    raise UnsupRuleError("a typing mistake")
  assert not list(tmp_path.iterdir())
  with lock.exclusive(tmp_path):  # A folder that was there stays.
    pass
  assert not list(tmp_path.iterdir())
  with lock.exclusive(tmp_path / "runs" / "a"):
    (tmp_path / "runs" / "kept").write_text("")
  assert [path.name for path in (tmp_path / "runs").iterdir()] == ["kept"]
  with lock.exclusive(tmp_path / "runs" / "a"):
    (tmp_path / "runs" / "a" / "params").write_text("")
  assert sorted(path.name for path in (tmp_path / "runs" / "a").iterdir()) == [".lock", "params"]


def test_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with (
    pytest.raises(UnsupRuleError, match=r"cannot write in .*file/run: Not a directory"),
    lock.exclusive(tmp_path / "file" / "run"),
  ):
    pass


def test_norm_and_mean_abs_of_a_tree():
  tree = {"a": np.asarray([3.0, 0.0], np.float32), "b": np.float32(-4)}
  assert trees.norm(tree) == pytest.approx(5)
  assert trees.mean_abs(tree) == pytest.approx(7 / 3)
