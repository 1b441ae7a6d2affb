"""Labels spread over a graph of the test inputs: references, which see what they are tested on.

Shape legend: N test inputs, K labelled examples of a draw, E all of its examples, W classes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import gin
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods import base, fitting, graphs
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.tasks.fewshot import Episodes

# (graph, rows of labelled examples [K], their classes as one-hot rows [K, W]) -> scores [N, W]
Spread = Callable[[graphs.Graph, np.ndarray, np.ndarray], np.ndarray]

_TOLERANCE = 1e-5  # of the residual, relative to the right side
_LEAST_STEPS, _MOST_STEPS = 50, 500  # of Poisson learning


def laplace(graph: graphs.Graph, rows_K: np.ndarray, y_KxW: np.ndarray) -> np.ndarray:
  """Scores [N, W] with y at the labelled rows, elsewhere the mean of their neighbours'."""
  laplacian = _laplacian(graph)
  free = np.ones(len(graph.degrees_N), bool)
  free[rows_K] = False
  known_NxW = np.zeros((len(graph.degrees_N), y_KxW.shape[1]))
  known_NxW[rows_K] = y_KxW
  rows_free = np.flatnonzero(free)
  right_FxW = -(laplacian @ known_NxW)[rows_free]
  known_NxW[rows_free] = _solved(laplacian[rows_free][:, rows_free], right_FxW)
  return known_NxW


def poisson(graph: graphs.Graph, rows_K: np.ndarray, y_KxW: np.ndarray) -> np.ndarray:
  """Scores u [N, W] on their way to L u = sum_k (y_k - mean y) delta_k.

  As in Calder et al., Algorithm 1, u <- u + D^-1 (sources - L u) ends when a random walk from the
  labelled rows has mixed, within bounds. The way is better than its end: on Fashion-MNIST at 14x14
  the solution itself is less accurate by two points.
  """
  degrees_N = graph.degrees_N
  n = len(degrees_N)
  walk = scipy.sparse.csr_array(scipy.sparse.diags_array(1 / degrees_N) @ graph.weights)
  back = scipy.sparse.csr_array(walk.T)
  sources_NxW = np.zeros((n, y_KxW.shape[1]))
  np.add.at(sources_NxW, rows_K, y_KxW - y_KxW.mean(axis=0))
  sources_NxW /= degrees_N[:, None]
  scores_NxW, visits_N = np.zeros_like(sources_NxW), np.zeros(n)
  np.add.at(visits_N, rows_K, 1 / len(rows_K))
  for step in range(_MOST_STEPS):
    if step >= _LEAST_STEPS and np.max(np.abs(visits_N - degrees_N / degrees_N.sum())) < 1 / n:
      break
    scores_NxW = walk @ scores_NxW + sources_NxW
    visits_N = back @ visits_N
  return scores_NxW - (degrees_N @ scores_NxW) / degrees_N.sum()


def rows_of(episodes: Episodes, test_NxP: np.ndarray) -> np.ndarray:
  """Which test input each drawn example is, [D, E]; of equal inputs the first.

  Raises:
    UnsupRuleError: a drawn example is not among the test inputs.
  """
  first: dict[bytes, int] = {}
  for row, x_P in enumerate(test_NxP):
    first.setdefault(x_P.tobytes(), row)
  natural_DxExP = np.ascontiguousarray(episodes.x_DxExP[:, :, np.argsort(episodes.permutation)])
  try:
    return np.array([[first[x_P.tobytes()] for x_P in x_ExP] for x_ExP in natural_DxExP])
  except KeyError:
    raise UnsupRuleError("a drawn example is not among the test inputs") from None


def _laplacian(graph: graphs.Graph) -> scipy.sparse.csr_array:
  return scipy.sparse.csr_array(scipy.sparse.diags_array(graph.degrees_N) - graph.weights)


def _solved(matrix: scipy.sparse.csr_array, right_NxW: np.ndarray) -> np.ndarray:
  """Solves a positive (semi-)definite system by conjugate gradients, scaled by its diagonal."""
  root_N = 1 / np.sqrt(np.maximum(matrix.diagonal(), 1e-12))
  root = scipy.sparse.diags_array(root_N)
  scaled = scipy.sparse.csr_array(root @ matrix @ root)
  columns = [
    scipy.sparse.linalg.cg(scaled, root_N * column, rtol=_TOLERANCE, maxiter=2000)[0]
    for column in right_NxW.T
  ]
  return root_N[:, None] * np.stack(columns, axis=1)


@dataclasses.dataclass(frozen=True)
class _LabelSpreading:
  """What both have in common: a graph of all inputs of the test split, one for all draws.

  Attributes:
    neighbours: of an input in the graph.
  """

  neighbours: int = 10

  reference = True
  spread: ClassVar[Spread]

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Raises: this method needs the test inputs, see `prepare_with_test`."""
    raise UnsupRuleError(f"{type(self).__name__} is transductive; call prepare_with_test")

  def prepare_with_test(self, setting: Setting, inputs: Inputs, test_inputs: Inputs) -> base.Fit:
    """Builds the graph of the test split's inputs; those of the train split are not used."""
    test_NxP = fitting.scaled(test_inputs)
    graph = graphs.of_inputs(test_NxP, self.neighbours)

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      rows_DxE = rows_of(episodes, test_NxP)
      k = episodes.labels_DxK.shape[1]
      scores_DxExW = np.stack([
        self.spread(graph, rows_E[:k], np.eye(episodes.n_ways)[labels_K])[rows_E]
        for rows_E, labels_K in zip(rows_DxE, episodes.labels_DxK, strict=True)
      ])  # fmt: skip
      yield base.Snapshot(0, scores_DxExW, np.argmax(scores_DxExW[:, k:], axis=2))

    return fit

  def cost(self, setting: Setting) -> float:
    """A graph, shared by the seeds, and a system of equations a draw."""
    return 5000 / setting.seeds + 170.0 * setting.draws


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class LaplaceLearning(_LabelSpreading):
  """Zhu, Ghahramani and Lafferty 2003: scores are harmonic, and one-hot at labelled examples."""

  label = "Laplace learning"
  about = "labels spread over a graph of the test inputs, which it sees; features = scores"
  source = "Zhu, Ghahramani and Lafferty 2003"
  spread = staticmethod(laplace)


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class PoissonLearning(_LabelSpreading):
  """Calder et al. 2020: labelled examples are sources and sinks of a flow over the graph."""

  label = "Poisson learning"
  about = "labels flow over a graph of the test inputs, which it sees; features = scores"
  source = "Calder, Cook, Thorpe and Slepčev 2020"
  spread = staticmethod(poisson)
