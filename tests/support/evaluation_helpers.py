"""Small rules, datasets and suites for the tests of the evaluation."""

import pathlib

import numpy as np
from rule_helpers import drawn_theta

from unsup_rule.data import Dataset
from unsup_rule.evaluation.setting import Data, Setting
from unsup_rule.meta import run_folder
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.theta import Sizes
from unsup_rule.weights.archive import Archive, Use

SIZES = Sizes(output_size=8, top_delta_size=4, compute_h_size=4, delta_dim=2, num_grad_channels=2)


def rule_folder(
  folder: pathlib.Path, sizes: Sizes = SIZES, learning_rate: float = 3e-3
) -> pathlib.Path:
  """A folder as a run leaves it, with a theta that is not trained."""
  origin = {"gin": "trainer.seed = 5\n", "data_sets": ["a", "b"], "seed": 5}
  theta = drawn_theta(sizes)
  run_folder.write_rule(folder, Archive(theta, InnerSchedule(learning_rate), Use(), origin))
  return folder


def blobs(split: str, each: int = 40, classes: int = 4, labels_seed: int | None = None) -> Dataset:
  """Classes far apart in 6x6 images; with `labels_seed` the labels mean nothing."""
  random = np.random.default_rng(len(split))
  labels = np.repeat(np.arange(classes), each)
  centres = np.random.default_rng(0).integers(0, 200, (classes, 36))
  images = centres[labels] + random.integers(0, 55, (len(labels), 36))
  if labels_seed is not None:
    labels = np.random.default_rng(labels_seed).permutation(labels)
  return Dataset.build(
    "blobs",
    split,
    images.astype(np.uint8).reshape(-1, 6, 6, 1),
    labels,
    [str(c) for c in range(classes)],
    1 / 255,
  )


def setting(**changes) -> Setting:
  """A small setting on blobs."""
  small = {"width": 16, "hidden_layers": 1, "n_outputs": 8, "batch_size": 16, "steps": (0, 3)}
  return Setting(Data("blobs"), **{**small, "seeds": 2, "draws": 3, **changes})
