"""The cache of datasets under real faults."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from fault_helpers import largest_file

from unsup_rule.data import Dataset
from unsup_rule.data.cache import cached

# 100 kB of pixels, so that a cut or a full disk hits the middle of the arrays.
_IMAGES = np.random.default_rng(0).integers(0, 256, (1000, 5, 5, 4), np.uint8)


def _build() -> Dataset:
  return Dataset.build("some", "train", _IMAGES, np.arange(1000) % 3, ["a", "b", "ç"], 1 / 255)


def _never() -> Dataset:
  raise AssertionError("built although it is in the cache")


def _assert_same(dataset: Dataset, other: Dataset) -> None:
  for field in ("images", "labels", "starts", "counts"):
    np.testing.assert_array_equal(getattr(dataset, field), getattr(other, field))
    assert getattr(dataset, field).dtype == getattr(other, field).dtype
  for field in ("name", "split", "class_names", "scale"):
    assert getattr(dataset, field) == getattr(other, field)


def _only_file(folder: pathlib.Path) -> pathlib.Path:
  (path,) = folder.iterdir()
  return path


def test_a_dataset_comes_back_as_it_was(tmp_path):
  cached("key", tmp_path, _build)
  again = cached("key", tmp_path, _never)
  _assert_same(again, _build())
  with pytest.raises(ValueError, match="read-only"):
    again.images[0] = 0


def test_another_key_is_another_file(tmp_path):
  cached("key", tmp_path, _build)
  with pytest.raises(AssertionError, match="built although"):
    cached("other key", tmp_path, _never)


def test_a_file_under_the_name_of_another_key_is_rebuilt(tmp_path):
  cached("key", tmp_path / "a", _build)
  cached("other key", tmp_path / "b", _build)
  _only_file(tmp_path / "a").replace(_only_file(tmp_path / "b"))
  with pytest.warns(UserWarning, match="it is for 'key', not for 'other key'"):
    _assert_same(cached("other key", tmp_path / "b", _build), _build())


def _cut(content: bytes) -> bytes:
  return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
  "damage",
  [_cut, _flip, lambda content: b"", lambda content: content[:20], lambda content: b"x" * 1000],
  ids=["cut", "bit flipped", "emptied", "cut in the checksum", "overwritten"],
)
def test_a_damaged_file_is_rebuilt_with_a_warning(tmp_path, damage):
  cached("key", tmp_path, _build)
  path = _only_file(tmp_path)
  whole = path.read_bytes()
  path.write_bytes(damage(whole))
  with pytest.warns(UserWarning, match=f"rebuilding the cache file {path}"):
    dataset = cached("key", tmp_path, _build)
  _assert_same(dataset, _build())
  assert _only_file(tmp_path).read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.warns(UserWarning, match="going on without a data cache: cannot write") as caught:
    dataset = cached("key", tmp_path / "file" / "cache", _build)
  assert len(caught) == 1
  _assert_same(dataset, _build())


def test_a_full_disk_leaves_no_half_a_file(tmp_path):
  with (
    largest_file(50_000),
    pytest.warns(UserWarning, match="going on without a data cache"),
  ):
    dataset = cached("key", tmp_path, _build)
  _assert_same(dataset, _build())
  assert list(tmp_path.iterdir()) == []


_BUILDER = """
import pathlib, sys, time
import numpy as np
from unsup_rule.data import Dataset
from unsup_rule.data.cache import cached

folder, me, other = pathlib.Path(sys.argv[1]), *sys.argv[2:]

def build():
  (folder / me).touch()
  for _ in range(3000):
    if (folder / other).exists():
      break
    time.sleep(0.01)
  else:
    raise SystemExit("the other builder never came")
  return Dataset.build("some", "train", np.full((400, 50, 50, 1), 3, np.uint8), np.zeros(400, int),
                    ["a"], 1.0)

dataset = cached("key", folder / "cache", build)
assert dataset.images.shape == (400, 50, 50, 1) and (dataset.images == 3).all()
"""


def _start(*arguments: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-W", "error::UserWarning", "-c", _BUILDER, *arguments],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    stderr=subprocess.PIPE,
    text=True,
  )


def test_two_processes_that_build_one_cache_at_once_both_succeed(tmp_path):
  builders = [_start(str(tmp_path), "a", "b"), _start(str(tmp_path), "b", "a")]
  errors = [builder.communicate(timeout=60)[1] for builder in builders]
  assert [builder.returncode for builder in builders] == [0, 0], errors
  _only_file(tmp_path / "cache")
  dataset = cached("key", tmp_path / "cache", _never)
  assert (dataset.images == 3).all()


def test_a_killed_builder_leaves_the_cache_usable(tmp_path):
  builder = _start(str(tmp_path), "a", "never")
  deadline = time.monotonic() + 60
  while not (tmp_path / "a").exists():
    assert builder.poll() is None, builder.stderr and builder.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)
  builder.send_signal(signal.SIGKILL)
  builder.communicate()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    _assert_same(cached("key", tmp_path / "cache", _build), _build())
    _assert_same(cached("key", tmp_path / "cache", _never), _build())
