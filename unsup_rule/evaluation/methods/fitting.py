"""Fitting methods that are no network: samples of the train inputs, and one snapshot of features.

Shape legend: N inputs, P values of an input, F features.
"""

from collections.abc import Callable, Iterator

import numpy as np

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.tasks.fewshot import Episodes, permutation_of

Embed = Callable[[np.ndarray], np.ndarray]  # [N, P] -> [N, F]

FITTED_ON = 10_000  # inputs drawn afresh for each seed


def sample(inputs: Inputs, setting: Setting, index: int, count: int = FITTED_ON) -> np.ndarray:
  """Scaled inputs [N, P] that a seed's features are fitted on, in that seed's permutation."""
  rows_N = _rows(setting, index, len(inputs.values_NxP), count)
  return scaled(inputs, rows_N)[:, permutation_of(setting, index, inputs.values_NxP.shape[1])]


def shared_sample(inputs: Inputs, setting: Setting, count: int) -> np.ndarray:
  """Scaled inputs [N, P] that one model for all seeds is fitted on, in their natural order."""
  return scaled(inputs, _rows(setting, 0, len(inputs.values_NxP), count))


def scaled(inputs: Inputs, rows_N: np.ndarray | slice = slice(None)) -> np.ndarray:
  """These inputs as models see them, float32."""
  return inputs.values_NxP[rows_N].astype(np.float32) * np.float32(inputs.scale)


def anew(make: Callable[[int], Embed]) -> base.Fit:
  """Fits each seed's features by themselves: `make(index)` in the seed's order of the inputs."""

  def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
    yield base.Snapshot(0, embedded(make(index), episodes.x_DxExP))

  return fit


def shared(embed: Embed) -> base.Fit:
  """Measures features that were fitted once, on inputs in their natural order.

  For methods that know distances or projections alone, whose features no order of the inputs
  changes; fitting them again for each seed would differ by the sample only. An example of several
  draws is embedded once.
  """

  def once_each(x_NxP: np.ndarray) -> np.ndarray:
    seen: dict[bytes, int] = {}
    which_N = [seen.setdefault(x_P.tobytes(), len(seen)) for x_P in x_NxP]
    first_M = np.unique(which_N, return_index=True)[1]
    return embed(x_NxP[first_M])[which_N]

  def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
    natural_P = np.argsort(episodes.permutation)
    yield base.Snapshot(0, embedded(once_each, episodes.x_DxExP[:, :, natural_P]))

  return fit


def _rows(setting: Setting, index: int, n: int, count: int) -> np.ndarray:
  random = np.random.default_rng([setting.seed, index, 3])
  return np.sort(random.choice(n, min(n, count), replace=False))


def embedded(embed: Embed, x_DxExP: np.ndarray) -> np.ndarray:
  """Features [D, E, F] of every example of every draw."""
  d, e, p = x_DxExP.shape
  return embed(x_DxExP.reshape(d * e, p)).reshape(d, e, -1)
