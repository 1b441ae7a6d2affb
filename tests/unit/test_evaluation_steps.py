"""Choosing a step on draws of the train split; losses of self-supervision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_helpers import blobs, setting

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.methods.autoencoders import corrupted
from unsup_rule.evaluation.methods.best_step import BestStep
from unsup_rule.evaluation.methods.self_supervised import (
  VICReg,
  info_nce,
  spread_and_covariance,
)
from unsup_rule.evaluation.setting import Data, Inputs
from unsup_rule.tasks import fewshot


@dataclasses.dataclass(frozen=True)
class Scripted:
  """Features that tell classes apart at the given steps only; notes which steps were taken."""

  good_at: tuple[int, ...]
  taken: list = dataclasses.field(default_factory=list)

  label = about = source = "scripted"
  reference = False

  def prepare(self, given, unused_inputs):
    def fit(unused_index, episodes):
      for step in given.steps:
        self.taken.append(step)
        x_DxExP = episodes.x_DxExP
        yield base.Snapshot(step, x_DxExP if step in self.good_at else 0 * x_DxExP + step)

    return fit

  def cost(self, given):
    return float(given.steps[-1])


@pytest.fixture(autouse=True)
def blob_data(monkeypatch):
  datasets = {"train": blobs("train"), "test": blobs("test")}
  monkeypatch.setattr(Data, "load", lambda self, split: datasets[split])
  return datasets


def chosen(method, episodes):
  (snapshot,) = method.prepare(setting(), Inputs.of(blobs("train")))(0, episodes)
  return snapshot


def test_the_step_is_the_best_of_the_train_split_and_the_row_that_of_the_budget():
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  snapshot = chosen(BestStep(Scripted(good_at=(3,)), (1, 3, 9)), episodes)
  assert snapshot.step == 9
  np.testing.assert_array_equal(snapshot.features_DxExF, episodes.x_DxExP)


def test_training_ends_when_patience_does():
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  scripted = Scripted(good_at=(1, 9))
  chosen(BestStep(scripted, (1, 3, 5, 9), patience=1), episodes)
  assert scripted.taken == [1, 3, 5]


def test_test_draws_cannot_influence_the_choice():
  """Whatever their inputs and labels are, the same step is taken."""
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  noise = np.random.default_rng(0).normal(size=episodes.x_DxExP.shape).astype(np.float32)
  other = dataclasses.replace(episodes, x_DxExP=noise, labels_DxK=episodes.labels_DxK[:, ::-1])
  for given in (episodes, other):
    scripted = Scripted(good_at=(3,))
    snapshot = chosen(BestStep(scripted, (1, 3, 5, 9)), given)
    assert scripted.taken == [1, 3, 5, 9]
    np.testing.assert_array_equal(snapshot.features_DxExF, given.x_DxExP)


def test_the_choice_follows_the_labels_of_the_train_split(blob_data):
  class Halves(Scripted):
    """Tells by step which half of the inputs is a feature."""

    def prepare(self, given, unused_inputs):
      def fit(unused_index, episodes):
        for step, inputs in zip(given.steps, (slice(18), slice(18, 36)), strict=True):
          yield base.Snapshot(step, episodes.x_DxExP[..., inputs])

      return fit

  episodes, _ = fewshot.draw(blobs("test"), setting(permute=False), 0)
  for telling in (slice(18), slice(18, 36)):
    images = blobs("train").images.reshape(160, 36).copy()
    images[:, [i for i in range(36) if i not in range(36)[telling]]] = 0
    train = blob_data["train"]
    blob_data["train"] = dataclasses.replace(train, images=images.reshape(train.images.shape))
    (snapshot,) = BestStep(Halves(()), (1, 3)).prepare(
      setting(permute=False), Inputs.of(blob_data["train"])
    )(0, episodes)
    np.testing.assert_array_equal(snapshot.features_DxExF, episodes.x_DxExP[..., telling])


def test_validation_draws_are_in_the_order_of_the_seed_and_as_large_as_the_split_allows():
  small = blobs("train", each=6)
  episodes, truth_DxK = BestStep(Scripted(()), draws=2).validation(small, setting(), 1)
  assert episodes.x_DxExP.shape == (2, 24, 36)
  assert truth_DxK.shape == (2, 12)
  np.testing.assert_array_equal(episodes.permutation, fewshot.permutation_of(setting(), 1, 36))
  natural = episodes.x_DxExP[0][:, np.argsort(episodes.permutation)]
  rows = small.images.reshape(24, 36).astype(np.float32) * np.float32(1 / 255)
  np.testing.assert_array_equal(np.unique(natural, axis=0), np.unique(rows, axis=0))


def test_corruption_takes_inputs_of_other_examples():
  x_BxP = jnp.arange(4000.0).reshape(200, 20)
  out = np.asarray(corrupted(jax.random.PRNGKey(0), x_BxP, 0.25))
  np.testing.assert_array_equal(out % 20, np.asarray(x_BxP) % 20)  # its own column
  assert np.mean(out != np.asarray(x_BxP)) == pytest.approx(0.25, abs=0.03)


def test_the_two_views_of_an_example_are_drawn_independently():
  x_BxP = jnp.asarray(np.random.default_rng(0).normal(size=(128, 40)), jnp.float32)
  key = jax.random.PRNGKey(0)
  views = VICReg(corruption=0.3, noise=0.0).views(key, x_BxP)
  one, other = (np.asarray(view != x_BxP) for view in views)
  assert one.mean() == pytest.approx(0.3, abs=0.03)
  assert other.mean() == pytest.approx(0.3, abs=0.03)
  assert np.mean(one & other) == pytest.approx(0.09, abs=0.02)
  views = VICReg(corruption=0.0, noise=0.1).views(key, x_BxP)
  one, other = (np.asarray((view - x_BxP) / x_BxP.std(axis=0)) for view in views)
  for noise in (one, other):
    assert noise.std() == pytest.approx(0.1, rel=0.05)
  assert np.corrcoef(one.ravel(), other.ravel())[0, 1] == pytest.approx(0, abs=0.05)


def test_info_nce_of_orthogonal_views_by_hand():
  # Cosines 1 on the diagonal and 0 elsewhere: log(1 + e^-2) at temperature 1/2.
  found = info_nce(2 * jnp.eye(2), 3 * jnp.eye(2), 0.5)
  assert float(found) == pytest.approx(np.log1p(np.exp(-2)), rel=1e-5)


def test_spread_and_covariance_by_hand():
  z_BxH = jnp.array([[1.0, 0.5], [-1.0, -0.5], [1.0, 0.5], [-1.0, -0.5]])
  short, together = spread_and_covariance(z_BxH)
  # Variances 4/3 and 1/3, covariance 2/3: one value lacks 1 - sqrt(1/3), off-diagonal 2 (2/3)^2.
  assert float(short) == pytest.approx((1 - np.sqrt(1 / 3 + 1e-4)) / 2, rel=1e-5)
  assert float(together) == pytest.approx(4 / 9, rel=1e-5)
