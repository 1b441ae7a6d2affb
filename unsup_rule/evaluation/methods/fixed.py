"""Features that need no network: inputs, principal components, k-means, sparse codes, kernel PCA.

ICA of as many components is not among them: it turns the whitened principal components, and no
probe with a rotation-invariant penalty can tell it from these.
"""

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import gin
import numpy as np

from unsup_rule.evaluation.methods import base, fitting
from unsup_rule.evaluation.methods.recent import Recent
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.tasks.fewshot import Episodes

# Of k-means, for the features alone and beside the inputs.
_CLUSTERINGS: Recent[Any] = Recent()


@dataclasses.dataclass(frozen=True)
class Pixels:
  """The inputs themselves."""

  label = "raw inputs"
  about = "the inputs as they are"
  source = "-"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Nothing to prepare."""
    return fitting.anew(lambda index: lambda x_NxP: x_NxP)

  def cost(self, setting: Setting) -> float:
    """Nothing but probes, of many features."""
    return 1000.0


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class PrincipalComponents:
  """Projection on the leading principal components of the inputs.

  Attributes:
    components: how many, or as many as there are inputs.
    whiten: whether each is brought to unit variance.
  """

  components: int = 32
  whiten: bool = False

  source = "Pearson 1901"
  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"PCA-{self.components}" + (" whitened" if self.whiten else "")

  @property
  def about(self) -> str:
    """Half a sentence for the report."""
    scale = ", each of unit variance" if self.whiten else ""
    return f"projection on the leading principal components of the train inputs{scale}"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Fits on inputs of the train split."""
    from sklearn.decomposition import PCA  # Slow to import.

    def make(index: int) -> fitting.Embed:
      sample_NxP = fitting.sample(inputs, setting, index)
      components = min(self.components, *sample_NxP.shape)
      return PCA(components, whiten=self.whiten, random_state=index).fit(sample_NxP).transform

    return fitting.anew(make)

  def cost(self, setting: Setting) -> float:
    """A decomposition."""
    return 200.0


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

    def fitted(index: int) -> Clustering:
      sample_NxP = fitting.sample(inputs, setting, index)
      clusters = min(self.clusters, len(sample_NxP))
      model = Clustering(clusters).set_params(n_init=1, max_iter=50, random_state=index)
      return model.fit(sample_NxP)

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      made_for = (self, inputs.digest, setting.permute, setting.seed)
      model, borrowed = _CLUSTERINGS.get(made_for, index, lambda: fitted(index))
      features_DxExF = fitting.embedded(
        lambda x_NxP: triangle(model.transform(x_NxP)), episodes.x_DxExP
      )
      yield base.Snapshot(0, features_DxExF, borrowed_seconds=borrowed)

    return fit

  def cost(self, setting: Setting) -> float:
    """A clustering."""
    return 500 + 15.0 * self.clusters


@dataclasses.dataclass(frozen=True)
class BesideInputs:
  """Another method's features and the inputs, each of variance 1 on average.

  Attributes:
    method: the other.
  """

  method: base.Method

  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"{self.method.label} and inputs"

  @property
  def about(self) -> str:
    """Half a sentence for the report."""
    return f"{self.method.about}; beside the inputs"

  @property
  def source(self) -> str:
    """That of the other."""
    return self.method.source

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Fits the other."""
    other = self.method.prepare(setting, inputs)

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      for snapshot in other(index, episodes):
        parts = [_sized(x) for x in (episodes.x_DxExP, snapshot.features_DxExF)]
        yield snapshot._replace(features_DxExF=np.concatenate(parts, axis=-1))

    return fit

  def cost(self, setting: Setting) -> float:
    """That of the other, and of probes of more features."""
    return 1000 + self.method.cost(setting)


def _sized(x_DxExF: np.ndarray) -> np.ndarray:
  """Each draw by itself brought to a variance of 1 on average over features."""
  x_DxExF = np.ascontiguousarray(x_DxExF)  # Sums depend on how an array lies in memory.
  size_Dx1x1 = np.sqrt(x_DxExF.var(axis=1, keepdims=True).mean(axis=-1, keepdims=True))
  return x_DxExF / np.where(size_Dx1x1 > 0, size_Dx1x1, 1)


def triangle(distances_NxC: np.ndarray) -> np.ndarray:
  """How much nearer each centre is than centres are on average, at least 0."""
  return np.maximum(0, distances_NxC.mean(axis=1, keepdims=True) - distances_NxC)


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class SparseCoding:
  """Codes of the inputs in a dictionary learned on them, under an L1 penalty on the codes.

  The inputs less their mean are divided by one factor so that they have unit mean square; the
  penalty then means the same for all data.

  Attributes:
    atoms: of the dictionary, which is the number of features.
    penalty: weight of the codes' absolute values.
  """

  atoms: int = 32
  penalty: float = 1.0

  about = "sparse codes in a dictionary learned on the train inputs"
  source = "Olshausen and Field 1996; Mairal et al. 2009"
  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"sparse coding-{self.atoms}"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Fits on inputs of the train split."""
    from sklearn.decomposition import MiniBatchDictionaryLearning  # Slow to import.

    def make(index: int) -> fitting.Embed:
      sample_NxP = fitting.sample(inputs, setting, index)
      mean_P, size = sample_NxP.mean(axis=0), sample_NxP.std(axis=0)
      scale = 1 / max(float(np.sqrt(np.mean(np.square(size)))), 1e-6)
      model = MiniBatchDictionaryLearning(self.atoms, batch_size=100, random_state=index)
      model.set_params(alpha=self.penalty, max_iter=2, fit_algorithm="cd")
      model.set_params(transform_algorithm="lasso_cd", transform_alpha=self.penalty)
      model.set_params(transform_max_iter=200)
      model.fit(scale * (sample_NxP - mean_P))
      return lambda x_NxP: _codes(model.transform, scale * (x_NxP - mean_P))

    return fitting.anew(make)

  def cost(self, setting: Setting) -> float:
    """Descent on the dictionary, and codes of each example."""
    return 5000.0


def _codes(transform: fitting.Embed, x_NxP: np.ndarray) -> np.ndarray:
  from sklearn.exceptions import ConvergenceWarning

  with warnings.catch_warnings():
    # Codes of a few examples that are near their minimum, and not at it, are codes all the same.
    warnings.simplefilter("ignore", ConvergenceWarning)
    return transform(x_NxP)


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class KernelPCA:
  """Principal components in the space of a Gaussian kernel, of Nystroem's approximation to it.

  The kernel's width is the median distance between inputs of the sample.

  Attributes:
    components: number of features.
    landmarks: inputs that the kernel is approximated on.
  """

  components: int = 32
  landmarks: int = 1000

  about = "leading components in the space of a Gaussian kernel on the train inputs"
  source = "Schölkopf, Smola and Müller 1998; Williams and Seeger 2001"
  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"kernel PCA-{self.components}"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Fits on inputs of the train split."""
    from sklearn.decomposition import PCA  # Slow to import.
    from sklearn.kernel_approximation import Nystroem
    from sklearn.metrics import pairwise_distances
    from sklearn.pipeline import make_pipeline

    def make(index: int) -> fitting.Embed:
      sample_NxP = fitting.sample(inputs, setting, index)
      random = np.random.default_rng([setting.seed, index, 4])
      some_NxP = sample_NxP[
        random.choice(len(sample_NxP), min(500, len(sample_NxP)), replace=False)
      ]
      distances_NxN = pairwise_distances(some_NxP)
      gamma = 1 / max(float(np.median(distances_NxN[distances_NxN > 0])), 1e-6) ** 2
      landmarks = min(self.landmarks, len(sample_NxP))
      kernel = Nystroem(gamma=gamma, n_components=landmarks, random_state=index)
      components = PCA(min(self.components, landmarks), random_state=index)
      return make_pipeline(kernel, components).fit(sample_NxP).transform

    return fitting.anew(make)

  def cost(self, setting: Setting) -> float:
    """Two decompositions."""
    return 2000.0
