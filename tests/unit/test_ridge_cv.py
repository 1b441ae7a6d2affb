"""The fair probe against leaving out one by one, and what it may look at."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from unsup_rule.tasks import ridge_cv


def episodes(draws=3, ways=4, each=10, n_features=6, seed=0, noise=2.0, scale=1.0):
  """Gaussian classes: features of the labelled and query halves, and labels of either half."""
  random = np.random.default_rng(seed)
  labels_K = np.repeat(np.arange(ways), each)
  centres = random.normal(size=(draws, ways, n_features))
  labels_DxK = np.stack([random.permutation(labels_K) for _ in range(draws)])
  truth_DxK = np.stack([random.permutation(labels_K) for _ in range(draws)])
  both = np.concatenate([labels_DxK, truth_DxK], axis=1)
  x = centres[np.arange(draws)[:, None], both]
  return scale * (x + noise * random.normal(size=x.shape)), labels_DxK, truth_DxK


def by_hand(features_ExF, labels_K, n_ways):
  """Leaves out each example in turn for each penalty, by scikit-learn's plain ridge regression."""
  k = len(labels_K)
  x, y = features_ExF[:k], 2 * np.eye(n_ways)[labels_K] - 1
  size = np.sqrt(np.mean(np.square(x - x.mean(axis=0))))
  errors = []
  for penalty in ridge_cv.PENALTIES:
    errors.append(0)
    for i in range(k):
      rest = np.arange(k) != i
      model = Ridge(penalty).fit(x[rest] / size, y[rest])
      errors[-1] += np.sum(np.square(model.predict(x[i : i + 1] / size) - y[i]))
  model = Ridge(ridge_cv.PENALTIES[np.argmin(errors)]).fit(x / size, y)
  return model.predict(features_ExF[k:] / size).argmax(1)


@pytest.mark.parametrize(
  ("n_features", "noise", "scale"), [(6, 2.0, 1.0), (6, 0.5, 1e-4), (90, 4.0, 1.0), (90, 9.0, 1e3)]
)
def test_the_penalty_is_the_one_that_predicts_examples_left_out(n_features, noise, scale):
  features, labels, _ = episodes(1, n_features=n_features, noise=noise, scale=scale)
  predicted = ridge_cv.predict(features, labels)
  expected = [by_hand(x, y, 4) for x, y in zip(features, labels, strict=True)]
  np.testing.assert_array_equal(predicted, expected)


def test_a_draw_is_predicted_as_if_it_were_alone():
  features, labels, _ = episodes(draws=4, n_features=30)
  alone = [ridge_cv.predict(features[i : i + 1], labels[i : i + 1])[0] for i in range(4)]
  np.testing.assert_array_equal(ridge_cv.predict(features, labels), alone)


def test_the_penalty_does_not_depend_on_query_examples():
  """Each query example is predicted as it would be if the others were any others."""
  features, labels, _ = episodes(n_features=30)
  changed = features.copy()
  changed[:, 41:] = 100 * np.random.default_rng(1).normal(size=changed[:, 41:].shape)
  before, after = ridge_cv.predict(features, labels), ridge_cv.predict(changed, labels)
  np.testing.assert_array_equal(before[:, 0], after[:, 0])
  assert (before[:, 1:] != after[:, 1:]).any()


def test_the_scale_of_features_does_not_matter():
  features, labels, truth = episodes(draws=10, n_features=30, noise=1.0)
  predicted = ridge_cv.predict(features, labels)
  assert np.mean(predicted == truth) > 0.8
  for scale in (1e-6, 1e6):
    np.testing.assert_array_equal(ridge_cv.predict(scale * features, labels), predicted)


@pytest.mark.parametrize("each", [1, 2, 3])
def test_few_labels(each):
  features, labels, truth = episodes(each=each, noise=0.1)
  assert np.mean(ridge_cv.predict(features, labels) == truth) > 0.8


def test_dead_features_predict_something():
  features, labels, _ = episodes()
  predicted = ridge_cv.predict(0 * features, labels)
  assert set(np.unique(predicted)) <= set(range(4))
