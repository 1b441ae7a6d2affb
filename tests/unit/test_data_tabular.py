"""Tables: halves that share no row, standardised by the train half alone."""

import numpy as np
import pytest
from sklearn import datasets

from unsup_rule.data import load
from unsup_rule.errors import UnsupRuleError

LOADERS = {"wine": datasets.load_wine, "breast_cancer": datasets.load_breast_cancer}


@pytest.mark.parametrize("name", LOADERS)
def test_halves_are_the_whole_table_standardised_by_the_train_half(name):
  train, test = load(name, "train"), load(name, "test")
  values, labels = LOADERS[name](return_X_y=True)
  assert len(train) + len(test) == len(values)
  np.testing.assert_array_equal(train.counts + test.counts, np.bincount(labels))
  x, y = train.images[:, 0, 0], test.images[:, 0, 0]
  np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(x.std(axis=0), 1, rtol=1e-4)
  assert np.abs(y.mean(axis=0)).max() > 1e-3
  # The same affine map of each column took both halves there.
  for column in (0, 3):
    both = np.sort(np.concatenate([x[:, column], y[:, column]]))
    fit = np.polyfit(np.sort(values[:, column]), both, 1)
    np.testing.assert_allclose(np.polyval(fit, np.sort(values[:, column])), both, atol=1e-4)


def test_an_unknown_split_and_a_failed_download_are_named(monkeypatch):
  with pytest.raises(UnsupRuleError, match="data set 'wine' has no split 'valid'"):
    load("wine", "valid")

  def offline(**unused):
    raise OSError("no route to host")

  monkeypatch.setattr(datasets, "fetch_covtype", offline)
  with pytest.raises(UnsupRuleError, match="cannot get data set 'covertype': no route to host"):
    load("covertype", "train", cache_dir="/nonexistent")
