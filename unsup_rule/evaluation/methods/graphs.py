"""Neighbourhood graphs of inputs, as sparse matrices.

Shape legend: N inputs, P values of an input, M new inputs, J neighbours.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse


class Graph(NamedTuple):
  """Similarities of inputs to their nearest ones.

  Attributes:
    weights: symmetric, non-negative, sparse [N, N], without a diagonal.
    neighbours: a fitted `sklearn.neighbors.NearestNeighbors`.
  """

  weights: scipy.sparse.csr_array
  neighbours: object

  @property
  def degrees_N(self) -> np.ndarray:
    """Sum of each input's similarities."""
    return np.asarray(self.weights.sum(axis=1)).ravel()


def of_inputs(x_NxP: np.ndarray, neighbours: int) -> Graph:
  """Links each input to its nearest ones; a link that one of the two has is there for both."""
  from sklearn.neighbors import NearestNeighbors  # Slow to import.

  model = NearestNeighbors(n_neighbors=min(neighbours, len(x_NxP) - 1)).fit(x_NxP)
  distances_NxJ, rows_NxJ = model.kneighbors()
  n, j = rows_NxJ.shape
  weights_NxJ = similarities(distances_NxJ)
  ends = (np.repeat(np.arange(n), j), rows_NxJ.ravel())
  directed = scipy.sparse.csr_array((weights_NxJ.ravel(), ends), shape=(n, n))
  return Graph(scipy.sparse.csr_array(directed.maximum(directed.T)), model)


def similarities(distances_NxJ: np.ndarray) -> np.ndarray:
  """exp(-4 d^2 / d_J^2), in units of each input's own distance to its last neighbour."""
  furthest_Nx1 = np.maximum(distances_NxJ[:, -1:], 1e-12)
  return np.exp(-4 * np.square(distances_NxJ / furthest_Nx1))


def averaged(graph: Graph, values_NxF: np.ndarray, x_MxP: np.ndarray) -> np.ndarray:
  """Values of new inputs: the mean of their neighbours' by similarity, [M, F]."""
  model: object = graph.neighbours
  distances_MxJ, rows_MxJ = model.kneighbors(x_MxP)  # type: ignore[attr-defined]
  weights_MxJ = similarities(distances_MxJ)
  total_Mx1 = weights_MxJ.sum(axis=1, keepdims=True)
  return np.einsum("mj,mjf->mf", weights_MxJ / total_Mx1, values_NxF[rows_MxJ])
