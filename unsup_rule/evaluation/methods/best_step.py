"""The one place where a step of training is chosen: on draws of the train split, never the test's.

Shape legend: D draws, V validation draws, E examples of a draw.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from unsup_rule.data import Dataset
from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.tasks import fewshot, ridge_cv
from unsup_rule.tasks.fewshot import Episodes

_OTHER_SEED = 7919  # so that no validation draw takes the rows that a test draw of its seed takes


@dataclasses.dataclass(frozen=True)
class BestStep:
  """A method as it is at its best step, seed by seed, as early stopping finds it.

  Beside the test draws the method embeds validation draws, which are made in the same way from the
  train split, with its labels. Features of the step with the best fair probe there are the result.

  Attributes:
    method: trained without labels, on `setting.steps`.
    steps: among which the best is chosen.
    patience: training ends after so many steps of the list without a new best.
    draws: validation draws.
  """

  method: base.Method
  steps: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
  patience: int = 1
  draws: int = 20

  @property
  def label(self) -> str:
    """For people."""
    return f"{self.method.label}, best step"

  @property
  def about(self) -> str:
    """Half a sentence for the report."""
    return f"{self.method.about}; step chosen on labelled draws of the train split"

  @property
  def source(self) -> str:
    """That of the method."""
    return self.method.source

  @property
  def reference(self) -> bool:
    """Labels choose among a handful of steps and train nothing: as the method is."""
    return self.method.reference

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Prepares the method, and loads the labels of the train split."""
    fit_all = self.method.prepare(dataclasses.replace(setting, steps=self.steps), inputs)
    train = setting.data.load(setting.data.train_split)

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      validation, truth = self.validation(train, setting, index)
      best, since, last = -1.0, 0, None
      for snapshot in fit_all(index, joined(validation, episodes)):
        accuracy = _accuracy(snapshot.features_DxExF, validation, truth)
        since += 1
        if accuracy > best:
          best, since, last = accuracy, 0, snapshot
        if since > self.patience:
          break
      assert last is not None  # There is at least one step.
      features_DxExF = last.features_DxExF[len(truth) :]
      # Each seed has a best step of its own; its numbers stand under that of the whole budget.
      yield base.Snapshot(self.steps[-1], features_DxExF, objective=last.objective)

    return fit

  def cost(self, setting: Setting) -> float:
    """Of all steps, if training does not end early."""
    return self.method.cost(dataclasses.replace(setting, steps=self.steps))

  def validation(self, train: Dataset, setting: Setting, index: int) -> tuple[Episodes, np.ndarray]:
    """Draws of the train split in the seed's order of the inputs, and their query classes."""
    each = min(setting.examples_per_class, int(train.counts.min()) // 2)
    other = dataclasses.replace(
      setting,
      seed=setting.seed + _OTHER_SEED,
      draws=self.draws,
      examples_per_class=each,
      permute=False,
    )
    episodes, truth = fewshot.draw(train, other, index)
    order_P = fewshot.permutation_of(setting, index, train.n_inputs)
    return dataclasses.replace(
      episodes, x_DxExP=episodes.x_DxExP[:, :, order_P], permutation=order_P
    ), truth


def joined(validation: Episodes, episodes: Episodes) -> Episodes:
  """Inputs of both; validation draws that are shorter are filled up with copies of their own."""
  filled_E = np.arange(episodes.x_DxExP.shape[1]) % validation.x_DxExP.shape[1]
  x_DxExP = np.concatenate([validation.x_DxExP[:, filled_E], episodes.x_DxExP])
  return dataclasses.replace(episodes, x_DxExP=x_DxExP)


def _accuracy(features_DxExF: np.ndarray, validation: Episodes, truth_VxK: np.ndarray) -> float:
  v, e, _ = validation.x_DxExP.shape
  features_VxExF = features_DxExF[:v, :e]
  if not np.isfinite(features_VxExF).all():
    return 0.0
  predicted = ridge_cv.predict(features_VxExF, validation.labels_DxK)
  return fewshot.accuracy(predicted, truth_VxK)
