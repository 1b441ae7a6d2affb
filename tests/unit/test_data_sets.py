"""Data sets by name that need no download, texts, and names that lead nowhere."""

import shutil
import socket
import time

import numpy as np
import pytest

from unsup_rule.data import load, sets, text, tfds_source
from unsup_rule.errors import UnsupRuleError


def test_digits_are_split_evenly_class_by_class(tmp_path):
  train, test = (load("digits", split, cache_dir=tmp_path) for split in ("train", "test"))
  assert len(train) + len(test) == 1797
  assert abs(train.counts - test.counts).max() <= 1
  assert train.shape == (8, 8, 1)
  assert [train.images.min(), train.images.max()] == [0, 255]  # 0..16, stretched.
  # scikit-learn's first image is a 0 whose first row holds 0, 0, 5, 13, 9, 1, 0, 0 of 16.
  assert train.images[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
  assert train.labels[0] == 0


def test_digits_of_both_splits_are_different_examples(tmp_path):
  train, test = (load("digits", split, cache_dir=tmp_path) for split in ("train", "test"))
  pixels = {image.tobytes() for image in train.images}
  assert not any(image.tobytes() in pixels for image in test.images)


def test_two_moons(tmp_path):
  train, test = (load("two_moons", split, cache_dir=tmp_path) for split in ("train", "test"))
  assert train.shape == (1, 1, 2)
  assert train.images.dtype == np.float32
  assert train.counts.tolist() == test.counts.tolist() == [500, 500]
  upper, lower = (train.images[train.labels == c].reshape(-1, 2) for c in (0, 1))
  assert upper.mean(0) == pytest.approx([0, 2 / np.pi], abs=0.06)  # Half circle about (0, 0).
  assert lower.mean(0) == pytest.approx([1, 0.5 - 2 / np.pi], abs=0.06)
  assert not (train.images == test.images).any()


def test_a_dataset_in_use_is_shared_and_other_arguments_give_another(tmp_path):
  dataset = load("digits", "train", cache_dir=tmp_path)
  assert load("digits", "train", cache_dir=tmp_path) is dataset
  assert load("digits", "test", cache_dir=tmp_path) is not dataset
  assert load("digits", "train", resolution=4, cache_dir=tmp_path).shape == (4, 4, 1)


def test_resize_methods_are_passed_on(tmp_path):
  dataset = load("digits", "train", cache_dir=tmp_path)
  half = load("digits", "train", resolution=4, cache_dir=tmp_path)
  np.testing.assert_array_equal(half.images, dataset.images[:, ::2, ::2])
  area = load("digits", "train", resolution=4, resize="area", cache_dir=tmp_path)
  np.testing.assert_array_equal(area.images, dataset.resized(4, "area").images)


def test_the_second_load_reads_the_cache(tmp_path, monkeypatch):
  first = load("digits", "train", cache_dir=tmp_path).images.copy()
  monkeypatch.setattr(sets, "_digits", None)
  np.testing.assert_array_equal(load("digits", "train", cache_dir=tmp_path).images, first)


def test_the_cache_folder_can_be_set_by_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv("UNSUP_RULE_CACHE", str(tmp_path / "here"))
  load("two_moons", "test")
  assert len(list((tmp_path / "here").iterdir())) == 1


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"name": "digits", "split": "valid"}, "'digits' has no split 'valid': choose train or test"),
    ({"name": "digits", "split": "train", "resolution": 9}, "resolution 9 .* are 8x8"),
    ({"name": "two_moons", "split": "train", "resolution": 1}, "holds vectors"),
    ({"name": "mnist", "split": "train", "vocabulary": 0}, "vocabulary is 0"),
  ],
)
def test_impossible_requests(arguments, message, tmp_path):
  with pytest.raises(UnsupRuleError, match=message):
    load(**arguments, cache_dir=tmp_path)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("minst", "unknown data set 'minst': did you mean mnist"),
    ("zzzzqqqq", "unknown data set 'zzzzqqqq': see tensorflow.org/datasets/catalog"),
    ("imagenet_resized/17x17", "cannot use data set 'imagenet_resized/17x17'.*17x17 not found"),
  ],
)
def test_unknown_names_are_refused_at_once(name, message, tmp_path):
  start = time.monotonic()
  with pytest.raises(UnsupRuleError, match=message) as caught:
    load(name, "train", data_dir=tmp_path, cache_dir=tmp_path)
  assert time.monotonic() - start < 60  # TFDS alone takes over 200.
  assert "\n  In call" in str(caught.value)  # Gin's addition; ours is the one line before.
  assert len(str(caught.value).splitlines()) == 2


def test_a_set_that_cannot_be_downloaded_fails_within_seconds(tmp_path, monkeypatch):
  for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
    monkeypatch.setenv(variable, "http://127.0.0.1:9")  # Nothing listens there.
  start = time.monotonic()
  with pytest.raises(UnsupRuleError) as caught:
    load("imagenet_resized/16x16", "train", data_dir=tmp_path, cache_dir=tmp_path)
  assert time.monotonic() - start < 60  # TFDS alone takes over 200.
  line = str(caught.value).splitlines()[0]
  assert "cannot get data set 'imagenet_resized/16x16'" in line
  assert f"data_dir {tmp_path}" in line
  assert "tfds build imagenet_resized/16x16 --data_dir DIR" in line
  assert "$TFDS_DATA_DIR" in line


def test_a_silent_host_is_given_up(monkeypatch):
  import requests

  monkeypatch.setattr(tfds_source, "_TIMEOUT_S", (0.2, 0.2))
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  with socket.create_server(("127.0.0.1", 0)) as silent:
    start = time.monotonic()
    with pytest.raises(requests.exceptions.ReadTimeout):
      tfds_source.check_answers(f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert time.monotonic() - start < 10


def test_words_are_lower_case_without_tags_and_punctuation():
  assert text.words("Don't STOP!<br /><br />It's 'fine', 1,000 times—naïve") == [
    "don't", "stop", "it's", "fine", "1", "000", "times", "na", "ve",
  ]  # fmt: skip


def test_the_most_frequent_words_come_first_and_ties_in_order():
  assert text.most_frequent(["b a c", "c b d d d"], 3) == ["d", "b", "c"]
  assert text.most_frequent(["b"], 3) == ["b"]


def test_word_counts_saturate_and_skip_unknown_words():
  counts = text.count_words(["a b a x", "", "a " * 300], ["b", "a"])
  assert counts.tolist() == [[1, 2], [0, 0], [0, 255]]
  assert counts.dtype == np.uint8


def test_packed_sets_are_taken_from_their_folder(tmp_path):
  path = sets.pack(tmp_path, "digits", "train", resolution=6)
  assert path.name == "digits-train-6.npz"
  packed = sets.load("digits", "train", resolution=6, files=tmp_path)
  made = sets.load("digits", "train", resolution=6)
  np.testing.assert_array_equal(packed.images, made.images)
  assert (packed.name, packed.class_names) == (made.name, made.class_names)
  assert sets.load("digits", "train", resolution=6, files=tmp_path) is packed
  # What is not there is made.
  assert sets.load("digits", "test", resolution=6, files=tmp_path).split == "test"
  path.write_bytes(path.read_bytes()[:-9])
  del packed
  with pytest.raises(UnsupRuleError, match=r"digits-train-6\.npz"):
    sets.load("digits", "train", resolution=6, files=tmp_path)


def test_a_packed_set_is_the_set_itself(tmp_path):
  """For machines without the sources; a file that is another's is refused."""
  path = sets.pack(tmp_path / "a", "digits", "test", resolution=6)
  packed = sets.load("digits", "test", resolution=6, files=tmp_path / "a")
  drawn = sets.load("digits", "test", resolution=6)
  np.testing.assert_array_equal(packed.images, drawn.images)
  np.testing.assert_array_equal(packed.labels, drawn.labels)
  assert packed.class_names == drawn.class_names
  (tmp_path / "b").mkdir()
  shutil.copy(path, tmp_path / "b" / path.name.replace("test", "train"))
  with pytest.raises(UnsupRuleError, match="it is for 'digits-test-6', not for 'digits-train-6'"):
    sets.load("digits", "train", resolution=6, files=tmp_path / "b")
