"""Spectral embedding of the train inputs, carried over to new ones by their neighbours.

Shape legend: N train inputs, P values of an input, F features, M new inputs.
"""

import dataclasses
from collections.abc import Callable

import gin
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from unsup_rule.evaluation.methods import base, fitting, graphs
from unsup_rule.evaluation.setting import Inputs, Setting


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class SpectralEmbedding:
  """Belkin and Niyogi 2003: the slowest functions on the neighbourhood graph of train inputs.

  A new input gets the mean of its neighbours' features by similarity. One graph serves all seeds.

  Attributes:
    components: number of features.
    neighbours: of an input in the graph, and of a new one.
    fitted_on: train inputs in the graph.
  """

  components: int = 32
  neighbours: int = 10
  fitted_on: int = 15_000

  about = "slowest functions on the graph of train inputs, averaged over neighbours for new ones"
  source = "Belkin and Niyogi 2003"
  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"spectral embedding-{self.components}"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Builds the graph on inputs of the train split, and its eigenvectors."""
    x_NxP = fitting.shared_sample(inputs, setting, self.fitted_on)
    graph = graphs.of_inputs(x_NxP, self.neighbours)
    values_NxF = slowest(graph, min(self.components, len(x_NxP) - 2))
    return fitting.shared(lambda x_MxP: graphs.averaged(graph, values_NxF, x_MxP))

  def cost(self, setting: Setting) -> float:
    """A graph, shared by the seeds, and neighbours."""
    return 500 + 15_000 / setting.seeds


class _Operator(scipy.sparse.linalg.LinearOperator):
  """A symmetric matrix that is known by its products."""

  def __init__(self, shape: tuple[int, int], product: Callable[[np.ndarray], np.ndarray]):
    super().__init__(np.dtype(np.float64), shape)
    self._product = product

  def _matvec(self, x: np.ndarray) -> np.ndarray:
    return self._product(x)


def slowest(graph: graphs.Graph, count: int) -> np.ndarray:
  """The functions [N, F] that a random walk on the graph forgets last, but for the constant one.

  They are D^-1/2 v, for the leading eigenvectors v of D^-1/2 W D^-1/2, scaled to unit mean square.
  """
  root_N = np.sqrt(graph.degrees_N)
  root = scipy.sparse.diags_array(1 / root_N)
  matrix = scipy.sparse.csr_array(root @ graph.weights @ root)
  # Of the constant function. It is taken out beforehand: where the graph is in pieces, there are
  # others of the same eigenvalue, and a solver mixes them.
  constant_N = root_N / np.linalg.norm(root_N)

  def without_constant(v_N: np.ndarray) -> np.ndarray:
    v_N = v_N.ravel()
    return matrix @ v_N - constant_N * (constant_N @ v_N)

  operator = _Operator((len(root_N), len(root_N)), without_constant)
  start_N = np.random.default_rng(0).standard_normal(len(root_N))
  # To full precision: a looser solver stops before it has found all vectors of one eigenvalue.
  _, vectors_NxF = scipy.sparse.linalg.eigsh(operator, count, which="LA", v0=start_N)
  values_NxF = (root @ vectors_NxF)[:, ::-1]
  return values_NxF / np.sqrt(np.mean(np.square(values_NxF), axis=0))
