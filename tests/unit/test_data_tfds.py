"""Sets of TensorFlow Datasets: small ones written here, and real ones where they are prepared."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from unsup_rule.data import Dataset, load, tfds_source
from unsup_rule.errors import UnsupRuleError

# Importing TensorFlow takes ten seconds.
pytestmark = pytest.mark.slow

_COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
_REVIEWS = {
  "train": [("Good, good<br />film.", 1), ("Bad film", 0), ("a film", 1), ("It's bad", 0)],
  "test": [("good bad good unseen", 1)],
  "unlabelled": [("who knows", -1)],
}


def _define_builders(tfds):
  """Defining a builder class registers it under its name in snake case."""

  class _Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in self.splits}

  class UnsupRuleColours(_Tiny):
    splits = ("train", "test")

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(4, 6, 3)),
        "label": tfds.features.ClassLabel(names=list(_COLOURS)),
        "note": tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
      )

    def _generate_examples(self, split):
      for i in range(30 if split == "train" else 6):
        label = list(_COLOURS)[i % 3]
        image = np.broadcast_to(np.uint8(_COLOURS[label]) + np.uint8(i // 10), (4, 6, 3))
        yield i, {"image": image, "label": label, "note": "ignored"}

  class UnsupRuleReviews(_Tiny):
    splits = tuple(_REVIEWS)

    def _info(self):
      features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("text", "label"),
      )

    def _generate_examples(self, split):
      for i, (text, label) in enumerate(_REVIEWS[split]):
        yield i, {"text": text, "label": label}

  class UnsupRuleRagged(_Tiny):
    splits = ("train",)

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(num_classes=2),
      }
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, split):
      for i in range(2):
        yield i, {"image": np.zeros((3 + i, 3, 1), np.uint8), "label": i}

  class UnsupRuleGrades(_Tiny):
    splits = ("train",)

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(2, 2, 1)),
        "label": tfds.features.Scalar(np.float32),
      }
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
      )

    def _generate_examples(self, split):
      yield 0, {"image": np.zeros((2, 2, 1), np.uint8), "label": 0.5}

  return UnsupRuleColours, UnsupRuleReviews, UnsupRuleRagged, UnsupRuleGrades


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
  """A folder of small prepared sets."""
  tfds = importlib.import_module("tensorflow_datasets")
  folder = tmp_path_factory.mktemp("tensorflow_datasets")
  for builder in _define_builders(tfds):
    builder(data_dir=folder).download_and_prepare()
  return folder


def test_images_come_with_their_classes(data_dir, tmp_path):
  dataset = load("unsup_rule_colours", "train", data_dir=data_dir, cache_dir=tmp_path)
  assert dataset.class_names == ("red", "green", "blue")
  assert dataset.counts.tolist() == [10, 10, 10]
  assert dataset.shape == (4, 6, 3)
  for c, colour in enumerate(_COLOURS.values()):
    examples = dataset.images[dataset.starts[c] :][: dataset.counts[c]]
    assert (np.abs(examples.astype(int) - colour) <= 2).all()
  assert dataset.images.dtype == np.uint8
  assert dataset.scale == 1 / 255


def test_slices_grey_and_resolution(data_dir, tmp_path):
  dataset = load(
    "unsup_rule_colours", "train[:50%]", resolution=2, grey=True, data_dir=data_dir,
    cache_dir=tmp_path,
  )  # fmt: skip
  assert len(dataset) == 15
  assert dataset.shape == (2, 2, 1)
  assert set(np.unique(dataset.images[dataset.labels == 0])) <= {75, 76, 77}


def test_texts_become_counts_of_training_words(data_dir, tmp_path):
  def counts(split: str, vocabulary: int) -> Dataset:
    return load(
      "unsup_rule_reviews", split, vocabulary=vocabulary, data_dir=data_dir, cache_dir=tmp_path
    )

  # By frequency in "train", then alphabetically: film 3, bad 2, good 2, a 1, it's 1.
  train = counts("train", 3)
  assert train.shape == (1, 1, 3)
  assert train.scale == 1.0
  assert sorted(map(tuple, train.images[:, 0, 0].tolist())) == sorted(
    [(1, 0, 2), (1, 1, 0), (1, 0, 0), (0, 1, 0)]
  )
  assert train.labels.tolist() == [0, 0, 1, 1]
  assert counts("test", 3).images.ravel().tolist() == [0, 1, 2]
  assert counts("test", 1000).shape == (1, 1, 5)  # No more words than there are.


@pytest.mark.parametrize(
  ("name", "split", "message"),
  [
    ("unsup_rule_colours", "valid", "no split 'valid': choose one of train, test"),
    ("unsup_rule_colours", "train[:0%]", "is empty"),
    ("unsup_rule_reviews", "unlabelled", "label -1 at example 0, outside 0..1"),
    ("unsup_rule_ragged", "train", "images of shape .*None.* choose a set whose images have one"),
    ("unsup_rule_grades", "train", "no images or texts with integer labels"),
  ],
)
def test_unfit_sets_and_splits(name, split, message, data_dir, tmp_path):
  with pytest.raises(UnsupRuleError, match=message):
    load(name, split, data_dir=data_dir, cache_dir=tmp_path)


def test_a_set_is_read_once_and_again_when_prepared_anew(data_dir, tmp_path, monkeypatch):
  first = load("unsup_rule_colours", "test", data_dir=data_dir, cache_dir=tmp_path).images.copy()

  def never(*_):
    raise AssertionError("read although it is in the cache")

  monkeypatch.setattr(tfds_source, "read", never)
  again = load("unsup_rule_colours", "test", data_dir=data_dir, cache_dir=tmp_path)
  np.testing.assert_array_equal(again.images, first)
  del again
  (info,) = (data_dir / "unsup_rule_colours").rglob("dataset_info.json")
  before = info.read_text()
  info.write_text(json.dumps({**json.loads(before), "description": "prepared anew"}))
  try:
    with pytest.raises(AssertionError, match="read although"):
      load("unsup_rule_colours", "test", data_dir=data_dir, cache_dir=tmp_path)
  finally:
    info.write_text(before)


def _of_class(dataset, c):
  return dataset.images[dataset.starts[c] :][: dataset.counts[c]]


def _real(name: str, split: str, cache_dir: pathlib.Path) -> Dataset:
  folder = tfds_source.data_folder(None) / name
  if not any(folder.rglob("dataset_info.json")):
    pytest.skip(f"data set {name} is not prepared in {folder.parent} (set TFDS_DATA_DIR)")
  return load(name, split, cache_dir=cache_dir)


def test_a_command_says_nothing_of_tensorflow(data_dir, tmp_path):
  bindings = [
    f"load_data.data_dir = '{data_dir}'",
    "task_distribution.sources = [{'name': 'unsup_rule_colours', 'ways': (3,)}]",
    "task_distribution.examples_per_class = 5",
    "trainer.heldout_fn = None",
  ]
  environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
  command = [sys.executable, "-m", "unsup_rule", "describe", "--config_file=smoke.gin"]
  told = subprocess.run(
    [*command, *(f"--gin_bindings={binding}" for binding in bindings)],
    env={**environment, "UNSUP_RULE_CACHE": str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=240,
  )
  assert told.returncode == 0, told.stderr
  assert "unsup_rule_colours" in told.stdout
  for line in told.stderr.replace("\r", "\n").split("\n"):
    assert not line.strip() or line.strip().startswith("reading "), line


@pytest.mark.parametrize(
  ("name", "size", "shape", "per_class"),
  [
    ("mnist", 10_000, (28, 28, 1), (892, 1135)),
    ("fashion_mnist", 10_000, (28, 28, 1), (1000, 1000)),
    ("cifar10", 10_000, (32, 32, 3), (1000, 1000)),
  ],
)
def test_real_images(name, size, shape, per_class, tmp_path):
  dataset = _real(name, "test", tmp_path)
  assert len(dataset) == size
  assert dataset.shape == shape
  assert (dataset.counts.min(), dataset.counts.max()) == per_class
  assert [dataset.images.min(), dataset.images.max()] == [0, 255]
  small = dataset.resized(14)
  if name != "cifar10":
    np.testing.assert_array_equal(small.images, dataset.images[:, ::2, ::2])
  assert os.listdir(tmp_path)


def test_real_mnist_classes_are_the_digits(tmp_path):
  # A mean 1 has ink in the middle column and none at the sides; a mean 0 has none in the middle.
  dataset = _real("mnist", "test", tmp_path)
  zero, one = (
    dataset.images[dataset.starts[c] :][: dataset.counts[c], ..., 0].mean(axis=0) for c in (0, 1)
  )
  assert one[14, 14] > 150 > zero[14, 14] * 5
  assert zero[14, 7] > 50 > one[14, 7]


def test_real_reviews_have_telling_words(tmp_path):
  dataset = _real("imdb_reviews", "train", tmp_path)
  assert dataset.shape == (1, 1, 1000)
  assert len(dataset) > 20_000
  rates = [
    (dataset.images[dataset.starts[c] :][: dataset.counts[c], 0, 0] > 0).mean(axis=0)
    for c in (0, 1)
  ]
  # The commonest word is "the", in nearly every review of either class; others tell them apart.
  assert min(rates[0][0], rates[1][0]) > 0.95
  assert np.abs(rates[0] - rates[1]).max() > 0.1
