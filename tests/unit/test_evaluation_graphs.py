"""Graph methods: spectral embedding, label spreading, and what they may see."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse
from evaluation_helpers import blobs, setting

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods import base, graphs
from unsup_rule.evaluation.methods.spectral import SpectralEmbedding, slowest
from unsup_rule.evaluation.methods.transductive import (
  LaplaceLearning,
  PoissonLearning,
  laplace,
  poisson,
  rows_of,
)
from unsup_rule.evaluation.setting import Inputs
from unsup_rule.tasks import fewshot

SPREADING = (LaplaceLearning, PoissonLearning)


def path(n):
  """Nodes in a row, each linked to the next with similarity 1."""
  weights = scipy.sparse.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1])
  return graphs.Graph(scipy.sparse.csr_array(weights), None)


def test_laplace_learning_on_a_path_is_linear_interpolation():
  scores = laplace(path(6), np.array([0, 5]), np.eye(2))
  np.testing.assert_allclose(scores[:, 1], [0, 0.2, 0.4, 0.6, 0.8, 1], atol=1e-4)
  np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)


def test_poisson_learning_on_a_path_is_linear_and_sums_to_zero():
  # Loops to themselves let a walk on the path mix and change nothing else.
  graph = graphs.Graph(scipy.sparse.csr_array(path(5).weights + scipy.sparse.eye_array(5)), None)
  scores = poisson(graph, np.array([0, 4]), np.eye(2))
  # Sources of 1/2 and -1/2 at the ends: a flow of 1/2 over each link.
  np.testing.assert_allclose(scores[:, 0], [1, 0.5, 0, -0.5, -1], atol=2e-3)
  np.testing.assert_allclose(graph.degrees_N @ scores, 0, atol=1e-9)
  np.testing.assert_allclose(scores.sum(axis=1), 0, atol=1e-9)


def test_poisson_learning_is_finite_on_a_graph_in_pieces():
  two = scipy.sparse.block_diag([path(3).weights, path(4).weights], format="csr")
  scores = poisson(graphs.Graph(two, None), np.array([0, 6]), np.eye(2))
  assert np.argmax(scores, axis=1).tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_spectral_embedding_of_two_clusters_separates_them():
  random = np.random.default_rng(0)
  x_NxP = random.normal(size=(60, 4)) + 6 * np.repeat([[0.0], [1.0]], 30, axis=0)
  # Joined by a bridge, so that the graph is in one piece.
  x_NxP = np.concatenate([x_NxP, np.linspace(0, 6, 8)[:, None] * np.ones(4)])
  graph = graphs.of_inputs(x_NxP, 6)
  slow_N = slowest(graph, 1)[:, 0]
  assert np.mean(np.square(slow_N)) == pytest.approx(1)
  assert abs(np.sign(slow_N[:30]).sum()) == 30
  assert np.sign(slow_N[0]) * np.sign(slow_N[30:60]).sum() == -30


def test_spectral_embedding_tells_the_pieces_of_a_graph_apart():
  pieces = scipy.sparse.block_diag([path(4).weights, path(5).weights, path(6).weights])
  values_NxF = slowest(graphs.Graph(scipy.sparse.csr_array(pieces), None), 2)
  firsts = values_NxF[[0, 4, 9]]
  np.testing.assert_allclose(values_NxF, np.repeat(firsts, (4, 5, 6), axis=0), atol=1e-3)
  assert min(np.linalg.norm(firsts[i] - firsts[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.5


def test_slowest_functions_of_a_path_are_cosines():
  """Of the walk that is reflected at the ends: cos(pi k n / (N - 1)), slowest first."""
  values_NxF = slowest(path(9), 3)
  for k, values_N in enumerate(values_NxF.T, start=1):
    cosine_N = np.cos(np.pi * k * np.arange(9) / 8)
    assert abs(np.corrcoef(values_N, cosine_N)[0, 1]) == pytest.approx(1, abs=1e-4)


def test_graphs_are_symmetric_and_new_inputs_get_their_neighbours_mean():
  x_NxP = np.array([[0.0], [1.0], [3.0], [7.0]])
  graph = graphs.of_inputs(x_NxP, 2)
  weights = graph.weights.toarray()
  np.testing.assert_array_equal(weights, weights.T)
  # From 7, the nearest are 3 (distance 4) and 1 (distance 6): exp(-4 (4/6)^2) and exp(-4).
  assert weights[3].tolist() == pytest.approx([0, np.exp(-4), np.exp(-16 / 9), 0])
  new = graphs.averaged(graph, np.array([[0.0], [10.0], [20.0], [30.0]]), np.array([[2.0]]))
  np.testing.assert_allclose(new, [[15.0]])  # 1 and 3, equally far


def test_spectral_features_do_not_depend_on_the_order_of_the_inputs():
  fit = SpectralEmbedding(4, neighbours=5).prepare(setting(), Inputs.of(blobs("train")))
  natural, _ = fewshot.draw(blobs("test"), setting(permute=False), 0)
  permuted, _ = fewshot.draw(blobs("test"), setting(), 0)
  first, second = (next(fit(0, episodes)).features_DxExF for episodes in (natural, permuted))
  np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", SPREADING)
def test_label_spreading_is_transductive_and_says_so(method):
  assert isinstance(method(), base.Transductive)
  assert method().reference
  assert "test inputs, which it sees" in method().about
  with pytest.raises(UnsupRuleError, match="transductive; call prepare_with_test"):
    method().prepare(setting(), Inputs.of(blobs("train")))


@pytest.mark.parametrize("method", SPREADING)
def test_label_spreading_tells_blobs_apart_from_the_labelled_half(method):
  train, test = Inputs.of(blobs("train")), blobs("test")
  episodes, truth_DxK = fewshot.draw(test, setting(), 0)
  fit = base.prepared(method(5), setting(), train, Inputs.of(test))
  snapshot = next(fit(0, episodes))
  assert fewshot.accuracy(snapshot.predictions_DxK, truth_DxK) == 1
  # Other labels of the labelled half, other predictions.
  turned = dataclasses.replace(episodes, labels_DxK=(episodes.labels_DxK + 1) % 4)
  other = next(fit(0, turned))
  np.testing.assert_array_equal(other.predictions_DxK, (truth_DxK + 1) % 4)


def test_an_example_that_is_no_test_input_is_an_error():
  episodes, _ = fewshot.draw(blobs("test"), setting(), 0)
  with pytest.raises(UnsupRuleError, match="a drawn example is not among the test inputs"):
    rows_of(episodes, np.zeros((3, 36), np.float32))
