"""`UnsupervisedFeatures`: a network trained without labels by a meta-trained rule."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm import tqdm

from unsup_rule.errors import UnsupRuleError
from unsup_rule.features import programs
from unsup_rule.rule.mlp import MLP, mlp_of
from unsup_rule.weights.pretrained import Pretrained, pretrained

_STATISTICS_ROWS = 4096


class UnsupervisedFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
  """Features of an MLP that an unsupervised, meta-trained rule fits to the data.

  `fit` draws random batches of rows and applies the rule to each. `transform` embeds each row by
  itself, deterministically: the model that the rule trains normalises every layer with the
  statistics of its batch, and `fit` ends by freezing them to those of (up to) 4,096 training rows
  under the final weights. On a large batch the two are nearly the same.

  Args:
    hidden: widths of the hidden layers.
    n_features: width of the embedding; a rule is made for one width and works with no other.
    rule: what `unsup_rule.pretrained` takes: a name, a path, what it returned; None: the default.
    steps: applications of the rule in `fit`; None: what the rule is at its best with.
    batch_size: rows of each, or all rows if there are fewer; None: what the rule was made for.
    random_state: initial weights, the order of rows, and the order in which the rule is shown the
      inputs: it minds their order a little, and in meta-training saw most of them shuffled.
    standardize: whether inputs are brought to mean 0 and variance 1, column by column.
    nonlinearity: name of it, see `unsup_rule.rule.mlp.NONLINEARITIES`.
    verbose: whether `fit` shows a progress bar.

  Attributes:
    params_: {W, b, V} of the base model; `params_.layer(1).w` is W_1.
    network_: weights and offsets that `transform` computes with (`features/frozen.py`).
    scaler_: the `StandardScaler` of the inputs, or None.
    n_steps_: applications of the rule so far.
    order_: the order of inputs that the rule is shown; all else is in that of X.
    n_features_in_: number of inputs.

  Example:
    >>> from sklearn.datasets import load_digits
    >>> from unsup_rule import UnsupervisedFeatures
    >>> UnsupervisedFeatures().fit_transform(load_digits().data).shape
    (1797, 32)
  """

  def __init__(
    self,
    hidden: Sequence[int] = (128, 128, 128, 128),
    n_features: int = 32,
    rule: str | os.PathLike | Pretrained | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    random_state: int | np.random.RandomState | None = 0,
    standardize: bool = True,
    nonlinearity: str = "relu",
    verbose: bool = False,
  ):
    self.hidden = hidden
    self.n_features = n_features
    self.rule = rule
    self.steps = steps
    self.batch_size = batch_size
    self.random_state = random_state
    self.standardize = standardize
    self.nonlinearity = nonlinearity
    self.verbose = verbose

  def fit(self, X: Any, y: Any = None) -> "UnsupervisedFeatures":
    """Trains a new network on the rows of X [n, n_0]; y is not used.

    Raises:
      UnsupRuleError: a parameter is out of range, or the rule is unknown, damaged or of another
        width.
      ValueError: X is no numeric array of two or more rows.
    """
    X = self._validated(X, reset=True)
    rule = self._begin(X.shape[1])
    if self.scaler_ is not None:
      self.scaler_.fit(X)
    steps = rule.use.steps if self.steps is None else self.steps
    if steps < 0:
      raise UnsupRuleError(f"steps is {steps}; give 0 or more")
    return self._train(X, rule, steps)

  def partial_fit(self, X: Any, y: Any = None) -> "UnsupervisedFeatures":
    """Goes on training for one pass over the rows of X; y is not used.

    Mean and variance of the inputs are those of all rows seen; the statistics that `transform`
    uses are those of the rows of this call, so let it be some hundred.
    """
    first = not hasattr(self, "params_")
    X = self._validated(X, reset=first)
    rule = self._begin(X.shape[1]) if first else self._rule()
    if self.scaler_ is not None:
      self.scaler_.partial_fit(X)
    return self._train(X, rule, len(X) // self._batch(rule, len(X)))

  def transform(self, X: Any) -> np.ndarray:
    """The embedding of each row, float32 [n, n_features]."""
    check_is_fitted(self)
    X = self._validated(X, reset=False)
    return programs.embed(self._mlp(), self.network_, len(X), self._rows(X))

  def _begin(self, n_inputs: int) -> Pretrained:
    """Sets what training starts from."""
    rule = self._rule()
    self._random = check_random_state(self.random_state)
    mlp = MLP(n_inputs, tuple(self.hidden), self.n_features, self.nonlinearity)
    self.params_ = programs.initial(mlp, self._random.randint(2**31 - 1))
    self.order_ = self._random.permutation(n_inputs)
    self.n_steps_ = 0
    self.scaler_ = StandardScaler() if self.standardize else None
    return rule

  def _train(self, X: np.ndarray, rule: Pretrained, steps: int) -> "UnsupervisedFeatures":
    mlp, rows = self._mlp(), self._rows(X)
    batches = itertools.islice(self._batches(len(X), self._batch(rule, len(X))), steps)
    with tqdm(total=steps, desc="applying the rule", disable=not self.verbose) as bar:
      params = programs.train(
        (rule.sizes, rule.theta, rule.schedule),
        mlp,
        self.params_.permuted(self.order_),
        self.n_steps_,
        lambda numbers: rows(numbers)[..., self.order_],
        batches,
        bar.update,
      )
    moved = params.permuted(np.argsort(self.order_))
    self.params_ = jax.tree.map(np.asarray, moved)
    self.n_steps_ += steps
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.params_)):
      raise UnsupRuleError(
        f"the weights are not finite after {self.n_steps_} steps; use fewer, or another rule"
      )
    some = self._random.permutation(len(X))[:_STATISTICS_ROWS]
    self.network_ = programs.freeze(mlp, self.params_, rows(some))
    return self

  def _rule(self) -> Pretrained:
    rule = pretrained(self.rule)
    if self.n_features != rule.sizes.output_size:
      raise UnsupRuleError(
        f"n_features is {self.n_features}, but rule {rule.name!r} is made for "
        f"{rule.sizes.output_size}; use n_features={rule.sizes.output_size}, or meta-train a rule "
        f"with UnsupervisedRule.output_size={self.n_features}"
      )
    return rule

  def _mlp(self) -> MLP:
    return dataclasses.replace(mlp_of(self.params_), nonlinearity=self.nonlinearity)

  def _batch(self, rule: Pretrained, n_rows: int) -> int:
    size = rule.use.batch_size if self.batch_size is None else self.batch_size
    if size < 2:
      raise UnsupRuleError(f"batch_size is {size}; the rule needs 2 or more, better 32")
    return min(size, n_rows)

  def _batches(self, n_rows: int, size: int) -> Iterator[np.ndarray]:
    """Numbers of the rows of each batch, in a new order each pass."""
    while True:
      order = self._random.permutation(n_rows)
      for start in range(0, n_rows - size + 1, size):
        yield order[start : start + size]

  def _rows(self, X: np.ndarray) -> programs.Rows:
    """Rows of X as the network takes them; standardised in the precision of X, then float32."""
    if self.scaler_ is None:
      return lambda numbers: X[numbers].astype(np.float32)
    scaler: Any = self.scaler_
    mean, scale = scaler.mean_, scaler.scale_
    return lambda numbers: ((X[numbers] - mean) / scale).astype(np.float32)

  def _validated(self, X: Any, reset: bool) -> np.ndarray:
    least = 2 if reset or not hasattr(self, "network_") else 1
    dtypes = [np.float64, np.float32]
    validate: Any = validate_data
    return validate(self, X, reset=reset, dtype=dtypes, ensure_min_samples=least)

  @property
  def _n_features_out(self) -> int:
    return self.n_features

  def __sklearn_tags__(self):
    tags = super().__sklearn_tags__()
    tags.transformer_tags.preserves_dtype = ["float32"]
    return tags
