"""The few-shot protocol: episodes, the probes that are fitted in them, statistics over seeds.

`evaluate`, held-out measurements and populations all go by it. An episode has labelled examples and
as many query examples of each class; a probe is fitted to the former and predicts the latter.

Shape legend: D draws, K labelled examples of a draw, E = 2K all of its examples, P inputs,
F features.
"""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.data import Dataset
from unsup_rule.probe import RidgeProbe, Targets, ridge_weights
from unsup_rule.tasks import ridge_cv

HEADLINE = "cv"  # what tables lead with and verdicts rest on
# "own": predictions of the method itself, if it makes any.
PROBES = (HEADLINE, "ridge", "logistic", "own")
PROBE_NAMES = {
  "cv": "ridge, factor by cross-validation",
  "ridge": "ridge, factor 0.1",
  "logistic": "logistic regression, C = 1",
  "own": "the method's own output",
}


class Setting(Protocol):
  """What a seed's episodes depend on, beside the data.

  Attributes:
    draws: episodes of a seed.
    examples_per_class: labelled examples of a class in an episode; as many again are predicted.
    seed: of everything random.
    permute: whether each seed shuffles the inputs by a permutation of its own.
  """

  @property
  def draws(self) -> int: ...
  @property
  def examples_per_class(self) -> int: ...
  @property
  def seed(self) -> int: ...
  @property
  def permute(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Episodes:
  """All that a method may see of one seed's episodes: the labels of the query half are not in it.

  Attributes:
    x_DxExP: inputs, permuted and scaled: in each episode K labelled, then K query examples.
    labels_DxK: classes of the labelled half.
    n_ways: number of classes.
    permutation: of the inputs, [P].
  """

  x_DxExP: np.ndarray
  labels_DxK: np.ndarray
  n_ways: int
  permutation: np.ndarray


TEST, VALIDATION = 2, 4  # streams of random numbers that episodes are drawn by


def draw(
  dataset: Dataset, setting: Setting, index: int, stream: int = TEST
) -> tuple[Episodes, np.ndarray]:
  """Draws seed number `index`'s examples, the same for every method.

  Args:
    dataset: what to draw from.
    setting: how.
    index: of the seed.
    stream: `TEST` for what results are measured on, `VALIDATION` for what choices are made by.

  Returns:
    The episodes, and the classes of the query half [D, K], which are for `accuracy` alone.
  """
  dataset.require_per_class(2 * setting.examples_per_class)
  random = np.random.default_rng([setting.seed, index, stream])
  n, each = dataset.n_classes, setting.examples_per_class
  rows_DxE = np.empty((setting.draws, 2 * n * each), np.int64)
  for rows_E in rows_DxE:
    chosen = [
      start + random.choice(count, 2 * each, replace=False)
      for start, count in zip(dataset.starts, dataset.counts, strict=True)
    ]
    rows_E[:] = np.concatenate([c[:each] for c in chosen] + [c[each:] for c in chosen])
  permutation = permutation_of(setting, index, dataset.n_inputs)
  x = dataset.images.reshape(len(dataset), -1)[rows_DxE][:, :, permutation]
  labels_DxE = dataset.labels[rows_DxE]
  episodes = Episodes(
    x.astype(np.float32) * np.float32(dataset.scale), labels_DxE[:, : n * each], n, permutation
  )
  return episodes, labels_DxE[:, n * each :]


def permutation_of(setting: Setting, index: int, n_inputs: int) -> np.ndarray:
  """Order of the inputs for seed number `index`, int32 [P]."""
  if not setting.permute:
    return np.arange(n_inputs, dtype=np.int32)
  return np.random.default_rng([setting.seed, index, 1]).permutation(n_inputs).astype(np.int32)


def predictions(
  features_DxExF: np.ndarray, episodes: Episodes, *, slow: bool = True
) -> dict[str, np.ndarray]:
  """Classes of the query half [D, K] by each probe, fitted on the labelled half.

  Args:
    features_DxExF: of every example of every draw.
    episodes: the draws.
    slow: whether logistic regression, which takes longest, is among the probes.

  Raises:
    FloatingPointError: the features are not finite.
  """
  features_DxExF = np.asarray(features_DxExF, np.float32)
  if not np.isfinite(features_DxExF).all():
    raise FloatingPointError("features are not finite")
  predicted = {
    "cv": ridge_cv.predict(features_DxExF, episodes.labels_DxK),
    "ridge": np.asarray(_ridge(features_DxExF, episodes.labels_DxK, episodes.n_ways)),
  }
  if slow:
    predicted["logistic"] = _logistic(features_DxExF, episodes.labels_DxK)
  return predicted


def accuracy(predicted_DxK: np.ndarray, truth_DxK: np.ndarray) -> float:
  """Share of right predictions over all draws."""
  return float(np.mean(predicted_DxK == truth_DxK))


def ridge(features_ExF: jax.Array, labels_K: jax.Array, n_ways: int) -> jax.Array:
  """Classes of the query half [K] by the ridge probe of the meta-objective."""
  probe, k = RidgeProbe(), labels_K.shape[0]
  a_ExF = jnp.concatenate([features_ExF, jnp.ones_like(features_ExF[:, :1])], axis=1)
  y_KxW = probe.encode(Targets(labels_K), n_ways)
  return jnp.argmax(a_ExF[k:] @ ridge_weights(a_ExF[:k], y_KxW, probe.ridge_factor), axis=1)


@functools.partial(jax.jit, static_argnums=2)
def _ridge(features_DxExF: jax.Array, labels_DxK: jax.Array, n_ways: int) -> jax.Array:
  def predict(draw: tuple[jax.Array, jax.Array]) -> jax.Array:
    features_ExF, labels_K = draw
    return ridge(features_ExF, labels_K, n_ways)

  return jax.lax.map(predict, (features_DxExF, labels_DxK))


def _logistic(features_DxExF: np.ndarray, labels_DxK: np.ndarray) -> np.ndarray:
  from sklearn.exceptions import ConvergenceWarning  # Slow to import.
  from sklearn.linear_model import LogisticRegression

  k = labels_DxK.shape[1]
  predicted = []
  with warnings.catch_warnings():
    # Features of no use at all need not converge; what they predict is counted all the same.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for features_ExF, labels_K in zip(features_DxExF, labels_DxK, strict=True):
      x_ExF = _in_span(features_ExF, k)
      model = LogisticRegression(C=1.0, max_iter=1000).fit(x_ExF[:k], labels_K)
      predicted.append(model.predict(x_ExF[k:]))
  return np.stack(predicted)


def _in_span(features_ExF: np.ndarray, k: int) -> np.ndarray:
  """Coordinates [E, K] in the span of the first k examples, where these have more features.

  The penalty keeps the weights of a regression in that span, so that it is the same one.
  """
  if features_ExF.shape[1] <= k:
    return features_ExF
  basis_FxK, _ = np.linalg.qr(features_ExF[:k].T)
  return features_ExF @ basis_FxK


def mean_and_error(values: np.ndarray | Sequence[float]) -> tuple[float, float]:
  """Mean over seeds and its standard error."""
  values = np.asarray(values, np.float64)
  return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
