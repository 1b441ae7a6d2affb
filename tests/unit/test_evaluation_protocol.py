"""What the protocol may see, and what its probes say."""

import dataclasses
import hashlib
import sys
import time

import numpy as np
import pytest
from evaluation_helpers import SIZES, blobs, rule_folder, setting
from sklearn.linear_model import LogisticRegression

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import measuring, provenance, runner
from unsup_rule.evaluation.methods import BASELINES, REFERENCES, RULES
from unsup_rule.evaluation.methods.all_labels import AllLabels
from unsup_rule.evaluation.methods.base import Transductive
from unsup_rule.evaluation.methods.best_step import BestStep
from unsup_rule.evaluation.methods.fixed import BesideInputs, KMeans
from unsup_rule.evaluation.methods.local import LocalLearning
from unsup_rule.evaluation.methods.recent import Recent
from unsup_rule.evaluation.methods.self_supervised import SCARF
from unsup_rule.evaluation.methods.spectral import SpectralEmbedding
from unsup_rule.evaluation.methods.supervised import Supervised
from unsup_rule.evaluation.methods.umap import UMAP
from unsup_rule.evaluation.setting import Data, Inputs
from unsup_rule.evaluation.suite import Cell
from unsup_rule.plugin.local import Sanger
from unsup_rule.probe import RidgeProbe, Targets
from unsup_rule.tasks import fewshot

QUICK = {
  **BASELINES,
  "supervised": lambda: Supervised(steps=(5,)),
  "kmeans": lambda: KMeans(4),
  "kmeans512": lambda: KMeans(9),
  "kmeans512_inputs": lambda: BesideInputs(KMeans(9)),
  "spectral": lambda: SpectralEmbedding(4, neighbours=5),
}
# Trained by the loop that trains those below.
TRAINED_ALIKE = {
  "vae_best",
  "denoising",
  "vicreg",
  "krotov_hopfield",
  "softhebb",
  "forward_forward",
}
QUICK |= {
  "scarf": lambda: BestStep(SCARF(head=8), (1, 3)),
  "sanger": lambda: BestStep(LocalLearning(Sanger()), (1, 3)),
}
# Prototypes read a data set of their own, UMAP is an extra; references may see what others may not.
ALONE = sorted(set(QUICK) - {"prototypes", "umap", *REFERENCES, *TRAINED_ALIKE})


@pytest.fixture
def blob_data(monkeypatch):
  """Serves blobs as the data set; tests put other datasets in."""
  datasets = {"train": blobs("train"), "test": blobs("test")}
  monkeypatch.setattr(Data, "load", lambda self, split: datasets[split])
  return datasets


def measured(method, folder=None, **changes):
  return measuring.measure(Cell("x", method, setting(**changes), {}), folder)


def test_progress_is_told_after_each_step_that_is_measured(blob_data):
  told = []
  cell = Cell("x", LocalLearning(Sanger()), setting(steps=(0, 1, 4), seeds=2), {})
  measuring.measure(cell, progress=told.append)
  assert told == pytest.approx([part * cell.cost / 2 for part in (0, 0.25, 0.75, 0)] * 2)


def test_mean_and_standard_error():
  assert fewshot.mean_and_error([0.5, 0.7]) == (pytest.approx(0.6), pytest.approx(0.1))


def test_draws_hold_each_class_equally_and_no_example_twice():
  dataset = blobs("test", each=20)  # exactly enough, so every example is drawn
  episodes, truth_DxK = fewshot.draw(dataset, setting(permute=False), 0)
  assert episodes.x_DxExP.shape == (3, 80, 36)
  for labels in (*episodes.labels_DxK, *truth_DxK):
    assert np.bincount(labels).tolist() == [10] * 4
  scaled = dataset.images.reshape(80, 36).astype(np.float32) * np.float32(1 / 255)
  everything = np.unique(scaled, axis=0)
  for x_ExP in episodes.x_DxExP:
    np.testing.assert_array_equal(np.unique(x_ExP, axis=0), everything)


def test_draws_are_what_they_were():
  """Published numbers rest on them; recorded from an earlier version."""
  episodes, truth_DxK = fewshot.draw(blobs("test"), setting(), 1)
  arrays = (episodes.x_DxExP, episodes.labels_DxK, truth_DxK)
  assert [hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in arrays] == [
    "0cf8564a1011b47c",
    "ac671fbb63959292",
    "ac671fbb63959292",
  ]
  assert episodes.permutation[:6].tolist() == [22, 12, 24, 4, 28, 32]


def test_each_seed_permutes_anew_and_alike_for_all_methods():
  dataset = blobs("test")
  first, again, other = (fewshot.draw(dataset, setting(), i)[0] for i in (0, 0, 1))
  np.testing.assert_array_equal(first.x_DxExP, again.x_DxExP)
  assert sorted(first.permutation) == list(range(36))
  assert not np.array_equal(first.permutation, other.permutation)
  natural = fewshot.draw(dataset, setting(permute=False), 0)[0]
  np.testing.assert_array_equal(natural.x_DxExP[..., first.permutation], first.x_DxExP)


def test_ridge_agrees_with_the_meta_objective():
  episodes, truth_DxK = fewshot.draw(blobs("test", labels_seed=1), setting(draws=1), 0)
  features = episodes.x_DxExP[..., :7]
  probe = RidgeProbe()(features[0], Targets(episodes.labels_DxK[0]), Targets(truth_DxK[0]), 4)
  predicted = fewshot.predictions(features, episodes)["ridge"]
  assert fewshot.accuracy(predicted, truth_DxK) == pytest.approx(float(probe.accuracy_test))


def test_logistic_regression_is_that_of_all_features_where_these_are_many():
  random = np.random.default_rng(3)
  labels_DxK = np.tile(np.arange(4), (2, 5))
  centres_WxF = random.normal(size=(4, 90))
  both = np.concatenate([labels_DxK, labels_DxK], axis=1)
  features = (centres_WxF[both] + 3 * random.normal(size=(2, 40, 90))).astype(np.float32)
  episodes = fewshot.Episodes(features, labels_DxK, 4, np.arange(90))
  found = fewshot.predictions(features, episodes)["logistic"]
  for predicted, x_ExF, labels_K in zip(found, features.astype(float), labels_DxK, strict=True):
    model = LogisticRegression(tol=1e-8, max_iter=5000).fit(x_ExF[:20], labels_K)
    second, best = np.sort(model.predict_proba(x_ExF[20:]), axis=1)[:, -2:].T
    assert np.min(best - second) > 1e-4  # So that rounding chooses no class.
    np.testing.assert_array_equal(predicted, model.predict(x_ExF[20:]))
  assert 0.3 < fewshot.accuracy(found, labels_DxK) < 1


def test_logistic_regression_is_fitted_after_the_last_step_alone(blob_data):
  first, last = measured(BASELINES["vae"](), steps=(0, 2))
  assert first["logistic"] is None
  assert len(last["logistic"]) == len(first["cv"]) == len(last["cv"]) == 2
  (once,) = measured(BASELINES["inputs"](), steps=(0, 2))
  assert len(once["logistic"]) == 2


@pytest.mark.parametrize("name", ["untrained", "inputs", "pca", "kmeans", "spectral", "supervised"])
def test_separable_classes_are_told_apart_and_shuffled_labels_give_chance(name, blob_data):
  method = QUICK[name]()
  blob_data["test"] = blobs("test", each=100)
  right = measured(method, seeds=2, draws=8)[-1]
  blob_data["test"] = blobs("test", each=100, labels_seed=5)
  shuffled = measured(method, seeds=2, draws=8)[-1]
  assert right["cv"]
  for probe in [r for r in fewshot.PROBES if right[r]]:
    assert np.mean(right[probe]) > 0.9
    # 640 predictions: a standard deviation of 0.017 about chance.
    assert abs(np.mean(shuffled[probe]) - 0.25) < 0.05


@pytest.mark.parametrize("name", ["supervised", "vae", "inputs"])
def test_predictions_do_not_depend_on_query_labels(name, blob_data, monkeypatch):
  seen = []
  monkeypatch.setattr(fewshot, "accuracy", lambda predicted, _: float(seen.append(predicted) or 0))
  measured(QUICK[name]())
  before, seen[:] = list(seen), []
  honest = fewshot.draw

  def lying(*arguments):
    episodes, truth_DxK = honest(*arguments)
    return episodes, (truth_DxK + 1) % 4

  monkeypatch.setattr(fewshot, "draw", lying)
  measured(QUICK[name]())
  assert len(before) == len(seen) > 0
  for old, new in zip(before, seen, strict=True):
    np.testing.assert_array_equal(old, new)


def rule(name, folder):
  loaded, _ = provenance.load_rule(rule_folder(folder))
  return RULES[name](loaded.theta, loaded.sizes, loaded.schedule)


@pytest.mark.parametrize("name", [*RULES, *ALONE])
def test_training_uses_no_image_of_the_test_split(name, tmp_path, blob_data):
  """What the features of one draw are cannot depend on the images of the others."""
  method = rule(name, tmp_path / "rule") if name in RULES else QUICK[name]()
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  others = episodes.x_DxExP.copy()
  others[1:] = 1 - others[1:]
  fit = method.prepare(setting(), Inputs.of(blobs("train")))
  first = list(fit(0, episodes))[-1]
  second = list(fit(0, dataclasses.replace(episodes, x_DxExP=others)))[-1]
  np.testing.assert_array_equal(first.features_DxExF[0], second.features_DxExF[0])
  assert not np.array_equal(first.features_DxExF[1], second.features_DxExF[1])


@pytest.mark.parametrize("name", ["rule_layers", "untrained_layers"])
def test_all_layers_are_those_that_are_probed_one_by_one(name, tmp_path, blob_data):
  method = rule(name, tmp_path / "rule") if name in RULES else QUICK[name]()
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  fit = method.prepare(setting(layers=True), Inputs.of(blobs("train")))
  last = list(fit(0, episodes))[-1]
  found, expected = last.features_DxExF, np.concatenate([last.layers["1"], last.layers["2"]], -1)
  np.testing.assert_allclose(found[..., 36:], expected, rtol=1e-4, atol=1e-5)
  x_DxExP = episodes.x_DxExP - episodes.x_DxExP.mean(axis=1, keepdims=True)
  factor = found[..., :36] / np.where(x_DxExP, x_DxExP, np.nan)
  np.testing.assert_allclose(found[..., :36].var(axis=1).mean(axis=1), 1, rtol=1e-3)
  assert np.nanstd(factor[0]) < 1e-2 * np.nanmean(factor[0])


def test_features_beside_inputs_have_the_size_of_these(blob_data):
  one = QUICK["kmeans512_inputs"]()
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  (snapshot,) = one.prepare(setting(), Inputs.of(blobs("train")))(0, episodes)
  variances = snapshot.features_DxExF.var(axis=1)
  assert variances.shape[1] == 36 + 9
  for block in (variances[:, :36], variances[:, 36:]):
    np.testing.assert_allclose(block.mean(axis=1), 1, rtol=1e-4)


def test_a_best_step_is_chosen_on_the_train_split_alone(blob_data):
  (before,) = measured(QUICK["inputs"]())
  blob_data["test"] = blobs("test", labels_seed=3)
  (other_test,) = measured(QUICK["inputs"]())
  assert other_test["cv"] != before["cv"]
  assert other_test["validation"] == before["validation"]
  blob_data["train"] = blobs("train", labels_seed=3)
  (other_train,) = measured(QUICK["inputs"]())
  assert other_train["cv"] == other_test["cv"]
  assert other_train["validation"] != before["validation"]


def test_the_rule_trains_on_the_train_split(blob_data, tmp_path):
  rule, _ = provenance.load_rule(rule_folder(tmp_path / "rule"))
  assert rule.sizes == SIZES
  weights = []
  for split, dataset in ((None, None), ("test", blobs("test+")), ("train", blobs("train+"))):
    blob_data.update({split: dataset} if split else {})
    measured(rule, tmp_path, steps=(0, 3))
    with np.load(measuring.arrays_path(tmp_path, Cell("x", rule, setting(), {}).key)) as arrays:
      assert arrays["labels"].shape == (3 * 80,)
      weights.append(arrays["weights/3"])
      assert not np.array_equal(arrays["weights/0"], arrays["weights/3"])
  np.testing.assert_array_equal(weights[0], weights[1])
  assert not np.array_equal(weights[1], weights[2])


def test_readouts_that_share_models_give_what_each_gives_alone(blob_data, tmp_path):
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  borrowed = []

  def features(method, split, *steps):
    fit = method.prepare(setting(steps=steps), Inputs.of(blobs(split)))
    snapshots = list(fit(0, episodes))
    borrowed.append(sum(snapshot.borrowed_seconds for snapshot in snapshots))
    return [snapshot.features_DxExF for snapshot in snapshots]

  alone = rule("rule_layers", tmp_path / "rule")
  first = RULES["rule"](alone.theta, alone.sizes, alone.schedule)
  second = RULES["rule_layers"](first.theta, first.sizes, first.schedule, first.trained)
  assert len(features(first, "train", 0, 3)) == 2
  np.testing.assert_array_equal(features(second, "train", 3), features(alone, "train", 3))
  assert [seconds > 0 for seconds in borrowed] == [False, True, False]
  # Other train inputs, other models.
  assert not np.array_equal(features(second, "train+", 3), features(alone, "train", 3))


def test_what_seeds_share_is_counted_with_each(blob_data):
  class Busy:
    label = about = "busy"

    def prepare(self, unused_setting, unused_inputs):
      end = time.process_time() + 0.1
      while time.process_time() < end:
        pass
      return BASELINES["inputs"]().prepare(unused_setting, unused_inputs)

    def cost(self, unused_setting):
      return 0.0

  (entry,) = measured(Busy(), seeds=3)
  assert entry["borrowed_seconds"] == [0.0, *[pytest.approx(0.1, abs=0.05)] * 2]


def test_models_are_made_once_for_what_they_depend_on():
  made = []
  recent = Recent()

  def get(made_for, index):
    return recent.get(made_for, index, lambda: made.append((made_for, index)) or len(made))[0]

  assert [get("a", 0), get("a", 1), get("a", 0), get("b", 0), get("a", 0)] == [1, 2, 1, 3, 4]
  assert made == [("a", 0), ("a", 1), ("b", 0), ("a", 0)]


def test_features_that_are_not_finite_are_named(blob_data):
  class Broken:
    label = about = "broken"

    def prepare(self, unused_setting, unused_inputs):
      fit = BASELINES["inputs"]().prepare(unused_setting, unused_inputs)

      def poisoned(index, episodes):
        for snapshot in fit(index, episodes):
          yield snapshot._replace(features_DxExF=snapshot.features_DxExF * np.nan)

      return poisoned

  with pytest.raises(FloatingPointError, match="not finite at step 0, seed 0"):
    measured(Broken())


def test_too_few_test_examples_is_an_error_that_names_the_class(blob_data):
  blob_data["test"] = blobs("test", each=19)
  with pytest.raises(UnsupRuleError, match=r"19 examples of class '0', fewer than the 20 needed"):
    runner.check([Cell("x", BASELINES["inputs"](), setting(), {})])


def test_the_split_that_is_tested_on_is_not_trained_on():
  with pytest.raises(UnsupRuleError, match="split 'test' would be trained and tested on"):
    Data("digits", train_split="test")


@dataclasses.dataclass(frozen=True)
class SeesTestInputs:
  """Raw inputs; notes what it was handed."""

  label = about = source = "spy"
  reference = True
  seen: list = dataclasses.field(default_factory=list)

  def prepare(self, unused_setting, unused_inputs):
    raise AssertionError("a transductive method is prepared with the test inputs")

  def prepare_with_test(self, given, inputs, test_inputs):
    self.seen.append((inputs, test_inputs))
    return BASELINES["inputs"]().prepare(given, inputs)

  def cost(self, unused_setting):
    return 0.0


def test_only_transductive_methods_are_handed_the_test_inputs(blob_data):
  spy = SeesTestInputs()
  measured(spy)
  ((inputs, test_inputs),) = spy.seen
  for split, seen in (("train", inputs), ("test", test_inputs)):
    np.testing.assert_array_equal(seen.values_NxP, blob_data[split].images.reshape(160, 36))
  transductive = {name for name in BASELINES if isinstance(BASELINES[name](), Transductive)}
  assert transductive == {"laplace", "poisson"}


def test_every_method_says_what_it_is():
  methods = {name: method() for name, method in BASELINES.items()}
  assert len({method.label for method in methods.values()}) == len(methods)
  assert {name for name, method in methods.items() if method.reference} == set(REFERENCES)
  for method in methods.values():
    assert method.about
    assert method.source
    assert method.cost(setting()) >= 0


def test_training_on_all_labels_reads_the_train_labels_and_no_others(blob_data):
  train = Inputs.of(blob_data["train"])
  episodes, _ = fewshot.draw(blob_data["test"], setting(), 0)
  turned = dataclasses.replace(episodes, labels_DxK=(episodes.labels_DxK + 1) % 4)
  first, second = (
    next(AllLabels(steps=3).prepare(setting(), train)(0, e)) for e in (episodes, turned)
  )
  assert first.step == 3
  np.testing.assert_array_equal(first.features_DxExF, second.features_DxExF)
  blob_data["train"] = blobs("train", labels_seed=1)
  other = next(AllLabels(steps=3).prepare(setting(), train)(0, episodes))
  assert not np.array_equal(first.features_DxExF, other.features_DxExF)


def test_umap_without_its_package_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "umap", None)  # as Python marks what cannot be imported
  with pytest.raises(UnsupRuleError, match=r"UMAP needs umap, .*pip install .*\[umap\]"):
    UMAP().prepare(setting(), Inputs.of(blobs("train")))


@pytest.mark.slow  # a minute of compilation by numba
def test_umap_tells_blobs_apart(blob_data):
  pytest.importorskip("umap")
  assert np.mean(measured(UMAP(4, neighbours=5))[-1]["cv"]) > 0.9


def test_a_transductive_method_is_shown_no_draw_of_the_train_split(blob_data):
  (found,) = measured(BASELINES["laplace"]())
  assert np.mean(found["cv"] or found["own"]) > 0.9
  assert found["validation"] is None
