"""The few-shot ridge probe: the meta-objective (docs/rule.md, section 6; the paper, eq. 2).

Shape legend: K labelled examples a side, F features, Y target columns (classes, then regression
targets).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.tuning import solve


class Targets(NamedTuple):
  """What a probe predicts for K examples.

  Attributes:
    labels: class of each example, [K] int32.
    regression: further real targets (of an augmentation, say), [K, P], or None.
  """

  labels: jax.Array
  regression: jax.Array | None = None


class ProbeResult(NamedTuple):
  """Scalars of one probe, named as in section 6 of docs/rule.md, and its arrays."""

  loss: jax.Array
  total_loss: jax.Array
  mse_test: jax.Array
  mse_train: jax.Array
  ridge_component: jax.Array
  accuracy_test: jax.Array
  accuracy_train: jax.Array
  ridge_w: jax.Array  # [F + 1, Y], the bias last
  ridge_y: jax.Array  # [K, Y], the scaled train targets
  logit_train: jax.Array  # [K, Y]
  logit_test: jax.Array  # [K, Y], before any normalisation

  def scalars(self) -> dict[str, jax.Array]:
    """The scalars alone, by name."""
    return {name: value for name, value in self._asdict().items() if value.ndim == 0}


@dataclasses.dataclass(frozen=True)
class RidgeProbe:
  """Closed-form ridge regression from features to centred, scaled one-hot targets.

  Attributes:
    ridge_factor: r, penalty on all weights but the bias; not multiplied by K.
    further_ridge_factors: the loss is its mean over r and these, so that features serve a probe
      whatever its penalty; all else that the probe returns is of r alone.
    splits: the loss is its mean over this many ways, 1 to K, to divide the 2K examples into halves.
      Each after the first exchanges some examples of the train half for as many of the same classes
      (of others, where the halves' counts differ). The expected loss is the same and varies less,
      for no more embeddings; all else that the probe returns is of the halves as they are given.
    zero_one_labels: one-hot in {0, 1}, else in {-1, 1}.
    center_y: subtract the mean over all entries and scale to unit mean squared norm, train and test
      each by its own statistics.
    normalize_y_hat: test predictions are normalised to unit length, which makes the error a cosine
      distance.
    normalize_act: features are l2-normalised over the joint train and test batch.
    hinge_loss: the test error of an example counts only above 1.
    test_train_scalar: s, weight of the test error; 1 - s that of the train error.
    regression_weight: mean squared size of each regression target, where the one-hot block has 1.
  """

  ridge_factor: float = 0.1
  further_ridge_factors: Sequence[float] = ()
  splits: int = 1
  zero_one_labels: bool = True
  center_y: bool = True
  normalize_y_hat: bool = True
  normalize_act: bool = False
  hinge_loss: bool = False
  test_train_scalar: float = 1.0
  regression_weight: float = 0.1

  def __post_init__(self):
    object.__setattr__(self, "further_ridge_factors", tuple(self.further_ridge_factors))
    for factor in (self.ridge_factor, *self.further_ridge_factors):
      if not isinstance(factor, jax.Array) and not factor >= 0:
        raise UnsupRuleError(f"RidgeProbe has a ridge factor of {factor}; give 0 or more")

  def encode(self, targets: Targets, n_ways: int, ways: jax.Array | None = None) -> jax.Array:
    """Targets as real columns [K, n_ways + P], centred and scaled.

    Args:
      targets: labels in 0 .. ways-1 and regression targets.
      n_ways: columns of the one-hot block.
      ways: number of classes that occur if that is fewer (it may be traced); the other columns are
        0 and do not take part.
    """
    real = (
      jnp.ones((1, n_ways))
      if ways is None
      else (jnp.arange(n_ways) < ways)[None, :].astype(jnp.float32)
    )
    y = jax.nn.one_hot(targets.labels, n_ways, dtype=jnp.float32)
    if not self.zero_one_labels:
      y = (2 * y - 1) * real
    if self.center_y:
      y = (y - jnp.sum(y) / (y.shape[0] * jnp.sum(real))) * real
      y = y / jnp.sqrt(jnp.mean(jnp.sum(jnp.square(y), axis=1)))
    if targets.regression is None or targets.regression.shape[1] == 0:
      return y
    t = targets.regression - jnp.mean(targets.regression, axis=0, keepdims=True)
    variance = jnp.mean(jnp.square(t), axis=0, keepdims=True)
    t = t * jnp.sqrt(self.regression_weight / jnp.where(variance > 1e-8, variance, 1))
    return jnp.concatenate([y, t], axis=1)

  def __call__(
    self,
    features_2KxF: jax.Array,
    train: Targets,
    test: Targets,
    n_ways: int,
    ways: jax.Array | None = None,
  ) -> ProbeResult:
    """Fits on the first K rows, predicts the others.

    Args:
      features_2KxF: features of train then test examples, embedded as one batch (they share the
        base model's normalisation statistics).
      train: targets of the first K rows.
      test: targets of the other rows.
      n_ways: number of classes (columns of the one-hot block).
      ways: see `encode`.
    """
    self._check(len(features_2KxF), len(train.labels), len(test.labels))
    f = features_2KxF
    if self.normalize_act:
      f = f / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(f), axis=0, keepdims=True), 1e-12))
    a = jnp.concatenate([f, jnp.ones_like(f[:, :1])], axis=1)
    y_train, y_test = self.encode(train, n_ways, ways), self.encode(test, n_ways, ways)
    fit, loss = self._fits(a, y_train, y_test)
    if self.splits > 1:
      others = self._losses_of_other_splits(a, train, test, n_ways, ways)
      loss = (loss + jnp.sum(others)) / self.splits
    return ProbeResult(
      loss=loss,
      total_loss=fit.mse_test + fit.ridge_component,
      mse_test=fit.mse_test,
      mse_train=fit.mse_train,
      ridge_component=fit.ridge_component,
      accuracy_test=accuracy(fit.logit_test, test.labels, n_ways, ways),
      accuracy_train=accuracy(fit.logit_train, train.labels, n_ways, ways),
      ridge_w=fit.w,
      ridge_y=y_train,
      logit_train=fit.logit_train,
      logit_test=fit.logit_test,
    )

  def _check(self, rows: int, k: int, n_test: int) -> None:
    """Raises if so many rows of features do not fit the targets, or the targets `splits`."""
    if k == 0 or n_test == 0 or rows != k + n_test:
      raise UnsupRuleError(
        f"the probe got {rows} feature rows for {k} train and {n_test} test labels; pass both "
        "halves, each with at least one example"
      )
    if not 1 <= self.splits <= k:
      raise UnsupRuleError(
        f"RidgeProbe.splits is {self.splits}; give 1 to {k}, the labelled examples"
      )
    if self.splits > 1 and k != n_test:
      raise UnsupRuleError(
        f"RidgeProbe.splits is {self.splits}, for halves of one size; these have {k} and "
        f"{n_test} examples, so give 1"
      )

  def _losses_of_other_splits(
    self,
    a_2KxF: jax.Array,
    train: Targets,
    test: Targets,
    n_ways: int,
    ways: jax.Array | None,
  ) -> jax.Array:
    """The loss of each division after the first: [splits - 1]."""
    k = len(train.labels)
    counterpart_K = _counterparts(train.labels, test.labels)
    train_half = a_2KxF[:k], train
    test_half = jax.tree.map(lambda rows: rows[counterpart_K], (a_2KxF[k:], test))

    def loss(exchange_K: jax.Array) -> jax.Array:
      (a_train, one), (a_test, other) = _exchanged(exchange_K, train_half, test_half)
      y_train, y_test = (self.encode(targets, n_ways, ways) for targets in (one, other))
      return self._fits(jnp.concatenate([a_train, a_test]), y_train, y_test)[1]

    return jax.vmap(loss)(jnp.asarray(exchanges(self.splits, k)))

  def _fits(
    self, a_2KxF: jax.Array, y_train: jax.Array, y_test: jax.Array
  ) -> tuple["_Fit", jax.Array]:
    """The regression under r, and the mean loss under all penalties."""
    fit = self._fit(a_2KxF, y_train, y_test, self.ridge_factor)
    others = [self._fit(a_2KxF, y_train, y_test, factor) for factor in self.further_ridge_factors]
    return fit, sum((other.loss for other in others), start=fit.loss) / (1 + len(others))

  def _fit(
    self, a_2KxF: jax.Array, y_train: jax.Array, y_test: jax.Array, ridge_factor: float
  ) -> "_Fit":
    """The regression under one penalty, and its errors on both halves."""
    k = len(y_train)
    w = ridge_weights(a_2KxF[:k], y_train, ridge_factor)
    logit_train, logit_test = _product(a_2KxF[:k], w), _product(a_2KxF[k:], w)
    prediction = unit_length(logit_test) if self.normalize_y_hat else logit_test
    errors_K = jnp.sum(jnp.square(prediction - y_test), axis=1)
    mse_test = jnp.sum(jax.nn.relu(errors_K - 1) if self.hinge_loss else errors_K) / len(y_test)
    mse_train = jnp.sum(jnp.square(logit_train - y_train)) / k
    ridge_component = ridge_factor * jnp.sum(jnp.square(w[:-1])) / k
    s = self.test_train_scalar
    loss = (ridge_component + mse_test) * s + (mse_train + ridge_component) * (1 - s)
    return _Fit(w, logit_train, logit_test, mse_test, mse_train, ridge_component, loss)


_Half = tuple[jax.Array, Targets]  # Features and targets of K examples.


class _Fit(NamedTuple):
  """A ridge regression: weights, predictions of both halves, and scalars of section 6."""

  w: jax.Array
  logit_train: jax.Array
  logit_test: jax.Array
  mse_test: jax.Array
  mse_train: jax.Array
  ridge_component: jax.Array
  loss: jax.Array


def exchanges(splits: int, k: int) -> np.ndarray:
  """Which rows the divisions after the first exchange: [splits - 1, K] bool.

  They are Walsh functions of a row's number and, after each, its complement: any two differ in
  about half of the rows, or in all.
  """
  split, row = np.meshgrid(np.arange(1, splits), np.arange(k), indexing="ij")
  return (np.bitwise_count(row & (split >> 1)) + split) % 2 == 1


def _counterparts(train_K: jax.Array, test_K: jax.Array) -> jax.Array:
  """For each train example a test example of its own, of the same class where counts agree: [K]."""
  return jnp.argsort(test_K)[jnp.argsort(jnp.argsort(train_K))]


def _exchanged(exchange_K: jax.Array, one: _Half, other: _Half) -> tuple[_Half, _Half]:
  """Both halves with some rows in the place of the other's."""

  def choose(if_true: jax.Array, if_false: jax.Array) -> jax.Array:
    rows = exchange_K.reshape(-1, *[1] * (if_true.ndim - 1))
    return jnp.where(rows, if_true, if_false)

  return jax.tree.map(choose, other, one), jax.tree.map(choose, one, other)


def ridge_weights(a_KxF: jax.Array, y_KxY: jax.Array, ridge_factor: float) -> jax.Array:
  """(A^T A + diag(r, .., r, 0))^-1 A^T y; the last column of A is all ones and not penalised."""
  k, n = a_KxF.shape
  if n > 2 * k:  # Where the smaller system is worth its products.
    return _dual_ridge_weights(a_KxF[:, :-1], y_KxY, ridge_factor)
  penalty = ridge_factor * jnp.ones((n,), a_KxF.dtype).at[-1].set(0)
  return _solution(_product(a_KxF.T, a_KxF) + jnp.diag(penalty), _product(a_KxF.T, y_KxY))


def _dual_ridge_weights(x_KxF: jax.Array, y_KxY: jax.Array, ridge_factor: float) -> jax.Array:
  """The same by the K examples, which are fewer: X^T (X X^T + r)^-1 y, X and y centred."""
  mean_F, mean_Y = jnp.mean(x_KxF, axis=0), jnp.mean(y_KxY, axis=0)
  x_KxF = x_KxF - mean_F
  gram_KxK = _product(x_KxF, x_KxF.T) + ridge_factor * jnp.eye(len(x_KxF), dtype=x_KxF.dtype)
  w_FxY = _product(x_KxF.T, _solution(gram_KxK, y_KxY - mean_Y))
  return jnp.concatenate([w_FxY, (mean_Y - _product(mean_F, w_FxY))[None]])


def _solution(a_NxN: jax.Array, b_NxY: jax.Array) -> jax.Array:
  """a^-1 b of a symmetric, positive a."""
  return jax.lax.custom_linear_solve(
    lambda w_NxY: _product(a_NxN, w_NxY),
    b_NxY,
    lambda _, right_NxY: solve(a_NxN, right_NxY),
    symmetric=True,
  )


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  """a @ b in float32 wherever it runs: the systems are too ill-conditioned for less."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def unit_length(p_KxY: jax.Array) -> jax.Array:
  """p / |p| a row, without an epsilon; rows of rounding (dead features) stay, gradient finite."""
  square = jnp.sum(jnp.square(p_KxY), axis=1, keepdims=True)
  return p_KxY / jnp.sqrt(jnp.where(square > 1e-12, square, 1))


def accuracy(
  logit_KxY: jax.Array, labels_K: jax.Array, n_ways: int, ways: jax.Array | None = None
) -> jax.Array:
  """Share of examples whose largest class logit is their label's."""
  logits = logit_KxY[:, :n_ways]
  if ways is not None:
    logits = jnp.where((jnp.arange(n_ways) < ways)[None, :], logits, -jnp.inf)
  return jnp.mean((jnp.argmax(logits, axis=1) == labels_K).astype(jnp.float32))
