"""Features that need no network: pixels, principal components, k-means."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import gin
import numpy as np

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.tasks.fewshot import Episodes, permutation_of

_FITTED_ON = 10_000  # inputs drawn afresh for each seed


@dataclasses.dataclass(frozen=True)
class Pixels:
  """The inputs themselves."""

  label = "raw inputs"
  about = "the inputs as they are"
  source = "-"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Nothing to prepare."""
    return _measured_once(lambda index, x_NxP: x_NxP)

  def cost(self, setting: Setting) -> float:
    """Nothing but probes, of many features."""
    return 50.0


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class PrincipalComponents:
  """Projection on the leading principal components of the inputs.

  Attributes:
    components: how many, or as many as there are inputs.
  """

  components: int = 32

  about = "projection on the leading principal components of the train inputs"
  source = "Pearson 1901"
  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"PCA-{self.components}"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Fits on inputs of the train split."""
    from sklearn.decomposition import PCA  # Slow to import.

    def embed(index: int, x_NxP: np.ndarray) -> np.ndarray:
      sample_NxP = _sample(inputs, setting, index)
      model = PCA(min(self.components, *sample_NxP.shape), random_state=index)
      return model.fit(sample_NxP).transform(x_NxP)

    return _measured_once(embed)

  def cost(self, setting: Setting) -> float:
    """A decomposition."""
    return 20.0


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class KMeans:
  """Coates, Lee and Ng 2011: max(0, mean distance to the centres - distance to centre k).

  Attributes:
    clusters: number of centres, which is the number of features.
  """

  clusters: int = 32

  about = "k-means centres of the train inputs, triangle features"
  source = "Coates, Lee and Ng 2011"
  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"k-means-{self.clusters}"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Fits on inputs of the train split."""
    from sklearn.cluster import KMeans as Clustering  # Slow to import.

    make: Any = Clustering  # Its defaults mislead type checkers.

    def embed(index: int, x_NxP: np.ndarray) -> np.ndarray:
      model = make(self.clusters, n_init=1, max_iter=50, random_state=index)
      distances_NxC = model.fit(_sample(inputs, setting, index)).transform(x_NxP)
      return np.maximum(0, distances_NxC.mean(axis=1, keepdims=True) - distances_NxC)

    return _measured_once(embed)

  def cost(self, setting: Setting) -> float:
    """A clustering."""
    return 100.0


def _sample(inputs: Inputs, setting: Setting, index: int) -> np.ndarray:
  """Scaled inputs [N, P] that a seed's features are fitted on, in that seed's permutation."""
  random = np.random.default_rng([setting.seed, index, 3])
  n, p = inputs.values_NxP.shape
  rows_N = np.sort(random.choice(n, min(n, _FITTED_ON), replace=False))
  sample_NxP = inputs.values_NxP[rows_N].astype(np.float32) * np.float32(inputs.scale)
  return sample_NxP[:, permutation_of(setting, index, p)]


def _measured_once(embed: Callable[[int, np.ndarray], np.ndarray]) -> base.Fit:
  def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
    d, e, p = episodes.x_DxExP.shape
    features_NxF = embed(index, episodes.x_DxExP.reshape(d * e, p))
    yield base.Snapshot(0, features_NxF.reshape(d, e, -1))

  return fit
