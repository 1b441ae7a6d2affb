"""Bags of words and manifolds: the same from a seed, apart between splits, of use."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from unsup_rule.data import load
from unsup_rule.data.bags import BagSource
from unsup_rule.data.manifolds import ManifoldSource
from unsup_rule.errors import UnsupRuleError
from unsup_rule.tasks import sources
from unsup_rule.tasks.sampler import TaskSampler

SMALL = {"bags": BagSource, "manifolds": ManifoldSource}


@pytest.mark.parametrize("name", SMALL)
def test_the_same_arguments_give_the_same_examples_and_splits_differ(name):
  make = SMALL[name]
  first, again = make(name, "valid", 20).render(), make(name, "valid", 20).render()
  np.testing.assert_array_equal(first.images, again.images)
  other = make(name, "train", 20).render()
  assert other.images.shape == first.images.shape
  assert not np.array_equal(other.images, first.images)
  assert first.shape == (1, 1, 20)
  assert make(name, "valid", 20).fingerprint() != make(name, "valid", 21).fingerprint()


@pytest.mark.parametrize(
  ("name", "split", "resolution", "message"),
  [
    ("bags", "dev", None, "has no split 'dev': choose one of train, valid, test"),
    ("bags", "train", 5, "its number of words: choose 16 to 4096"),
    ("manifolds", "dev", None, "has no split 'dev'"),
    ("manifolds/rings", "train", None, "unknown manifolds 'manifolds/rings': choose one of"),
    ("manifolds", "train", 1, "its number of inputs: choose 2 to 64"),
  ],
)
def test_bad_names_splits_and_sizes_are_named(name, split, resolution, message):
  with pytest.raises(UnsupRuleError, match=message):
    load(name, split, resolution=resolution)


def test_word_frequencies_follow_zipf():
  counts_V = BagSource("bags", "train", 400, examples=50).render().images.sum(axis=(0, 1, 2))
  frequency_V = np.sort(counts_V)[::-1] / counts_V.sum()
  slope = np.polyfit(np.log(np.arange(10, 300)), np.log(frequency_V[10:300]), 1)[0]
  assert -1.6 < slope < -0.8
  # The order of the columns is that of frequency, but for what topics tilt.
  assert np.corrcoef(np.log1p(counts_V), -np.log(np.arange(1, 401)))[0, 1] > 0.7


def test_bags_are_hard_for_few_words_and_told_by_their_leading_components():
  """As of reviews: a few labels say little about single words, more about common directions."""
  dataset = load("bags", "valid", resolution=300).select_classes((0, 1))
  x = np.minimum(dataset.images[:, 0, 0], 1).astype(np.float64)
  raw, leading = [], []
  reduced = PCA(8, random_state=0).fit_transform(x)
  for seed in range(30):
    order = np.random.default_rng(seed).permutation(len(x))
    few, rest = order[:20], order[20:]
    for features, scores in ((x, raw), (reduced, leading)):
      model = LogisticRegression(C=0.1).fit(features[few], dataset.labels[few])
      scores.append(model.score(features[rest], dataset.labels[rest]))
  assert 0.55 < np.mean(raw) < 0.85
  assert np.mean(leading) > np.mean(raw)


@pytest.mark.parametrize("inputs", [2, 8, 20])
@pytest.mark.parametrize("kind", ["moons", "circles", "rolls"])
def test_manifolds_are_told_by_neighbours_and_not_by_a_plane(kind, inputs):
  dataset = load(f"manifolds/{kind}", "valid", resolution=inputs)
  x, y = dataset.images[:, 0, 0], dataset.labels
  plane = LogisticRegression().fit(x[::2], y[::2]).score(x[1::2], y[1::2])
  near = KNeighborsClassifier(10).fit(x[::2], y[::2]).score(x[1::2], y[1::2])
  assert near > 0.8
  assert near > plane + 0.05


@pytest.mark.parametrize("name", SMALL)
def test_they_are_sources_of_tasks_at_several_sizes(name):
  spec = sources.DatasetSpec.from_settings({"name": name, "resolutions": (16, 20), "ways": (2, 5)})
  for size in spec.resolutions:
    sampler = TaskSampler([spec.source(size)], batch_size=8, examples_per_class=4)
    assert sampler.n_inputs == size


def test_other_splits_of_what_is_drawn_may_be_evaluated_on():
  for name in SMALL:
    sources.check_disjoint([name], [{"name": name, "split": "valid"}])
    with pytest.raises(UnsupRuleError, match="both trained and evaluated on"):
      sources.check_disjoint([name], [name])
