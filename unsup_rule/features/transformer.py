"""`UnsupervisedFeatures`: a network trained without labels by a meta-trained rule."""

import copy
import importlib
import itertools
import numbers
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm import tqdm

from unsup_rule import extras, locations, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.exports.network import Plain
from unsup_rule.features import programs
from unsup_rule.features.rows import Matrix, Sample, check_size, dense, joined
from unsup_rule.rule import outputs
from unsup_rule.rule.mlp import MLP, NONLINEARITIES
from unsup_rule.weights.pretrained import Pretrained, pretrained


class UnsupervisedFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
  """Features of an MLP that an unsupervised, meta-trained rule fits to the data.

  `fit` draws random batches of rows and applies the rule to each. `transform` embeds each row by
  itself, deterministically: the model that the rule trains normalises every layer with the
  statistics of its batch, and `fit` ends by freezing them to those of (up to) 4,096 training rows,
  fewer where a row has more than 16,384 columns, under the final weights. On a large batch the two
  are nearly the same. A call that fails, or is interrupted, leaves the estimator as it was.

  X is an array or a sparse matrix, whose rows are made dense a few batches at a time.

  Args:
    hidden: widths of the hidden layers; a number is one layer.
    n_features: width of the embedding; a rule is made for one width and works with no other.
    rule: what `unsup_rule.pretrained` takes: a name, a path, what it returned; None: the default.
    steps: applications of the rule in `fit`; None: what the rule is at its best with.
    batch_size: rows of each, or all rows if there are fewer; None: what the rule was made for.
    random_state: initial weights, the order of rows, and the order in which the rule is shown the
      inputs: it minds their order a little, and in meta-training saw most of them shuffled.
    standardize: whether inputs are brought to mean 0 and variance 1, column by column.
    nonlinearity: name of it, see `unsup_rule.rule.mlp.NONLINEARITIES`.
    verbose: whether `fit` shows a progress bar.
    output: what `transform` gives: "embedding", or "layers", x_0 to x_L side by side: the inputs,
      centred and of variance 1 on average, then every layer. These tell a regularised linear
      model more.

  Attributes:
    params_: {W, b, V} of the base model; `params_.layer(1).w` is W_1.
    network_: weights and offsets that `transform` computes with (`features/frozen.py`).
    scaler_: the `StandardScaler` of the inputs, or None.
    n_steps_: applications of the rule so far.
    order_: the order of inputs that the rule is shown; all else is in that of X.
    mlp_: the architecture.
    n_features_in_: number of inputs.

  Examples:
    >>> from sklearn.datasets import load_digits
    >>> from unsup_rule import UnsupervisedFeatures
    >>> UnsupervisedFeatures().fit_transform(load_digits().data).shape
    (1797, 32)
  """

  _parameter_constraints = {  # noqa: RUF012  (scikit-learn's name and form)
    "hidden": [Interval(numbers.Integral, 1, None, closed="left"), "array-like"],
    "n_features": [Interval(numbers.Integral, 1, None, closed="left")],
    "output": [StrOptions(set(outputs.OUTPUTS))],
    "rule": [str, os.PathLike, Pretrained, None],
    "steps": [Interval(numbers.Integral, 0, None, closed="left"), None],
    "batch_size": [Interval(numbers.Integral, 2, None, closed="left"), None],
    "random_state": ["random_state"],
    "standardize": ["boolean"],
    "nonlinearity": [StrOptions(set(NONLINEARITIES))],
    "verbose": ["verbose"],
  }

  def __init__(
    self,
    hidden: int | Sequence[int] = (128, 128, 128, 128),
    n_features: int = 32,
    rule: str | os.PathLike | Pretrained | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    random_state: int | np.random.RandomState | None = 0,
    standardize: bool = True,
    nonlinearity: str = "relu",
    verbose: bool = False,
    output: str = "embedding",
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
    self.output = output

  def fit(self, X: Any, y: Any = None) -> "UnsupervisedFeatures":
    """Trains a new network on the rows of X [n, n_0]; y is not used.

    Raises:
      UnsupRuleError: the rule is unknown, damaged or of another width; or a value of X is too large
        to be computed with.
      ValueError: a parameter is of a wrong type or out of range, or X is no numeric array of two or
        more rows.
    """
    new = self._unfitted()
    X = new._validated(X, reset=True)
    rule = new._begin(X.shape[1])
    n_rows = X.shape[0]
    for start in range(0, n_rows, new._sample.most):
      new._count(X[start : start + new._sample.most])
    batches = new._batches(n_rows, min(new._batch(rule), n_rows))
    steps = rule.use.steps if self.steps is None else self.steps
    new._train(rule, new._rows(X), itertools.islice(batches, steps), steps)
    return self._become(new._frozen(), begun=True)

  def partial_fit(self, X: Any, y: Any = None) -> "UnsupervisedFeatures":
    """Goes on training, a step for each batch of rows in the order given; y is not used.

    Rows that do not fill a batch wait for those of the next call, so that it does not matter how
    rows are cut into calls. All count for what inputs are standardised with, and for the
    statistics that `transform` uses: those of a random sample of all rows so far, of up to 4,096.
    """
    first = not hasattr(self, "params_")
    new = self._unfitted() if first else self._copied()
    X = new._validated(X, reset=first)
    rule = new._begin(X.shape[1]) if first else new._rule(new.mlp_.n_outputs)
    size, n_waiting = new._batch(rule), len(new._waiting)
    X = joined(new._waiting, X)
    rows = new._rows(X)

    def met(numbers_B: np.ndarray) -> np.ndarray:
      new._count(X[numbers_B[numbers_B >= n_waiting]])
      return rows(numbers_B)

    numbers_N = np.arange(X.shape[0])
    steps = len(numbers_N) // size
    new._train(
      rule,
      lambda numbers_SxB: np.stack([met(one) for one in numbers_SxB]),
      iter(numbers_N[: steps * size].reshape(steps, size)),
      steps,
    )
    left = numbers_N[steps * size :]
    new._count(X[left[left >= n_waiting]])
    new._waiting = dense(X[left])
    return self._become(new._frozen(), begun=first)

  def transform(self, X: Any) -> np.ndarray:
    """The embedding of each row, float32 [n, n_features], or all its layers side by side."""
    check_is_fitted(self)
    X = self._validated(X, reset=False)
    return programs.embed(self.mlp_, self.network_, X.shape[0], self._rows(X), self._inputs)

  def to_torch(self):
    """What `transform` computes as an `nn.Sequential` of PyTorch, scaling of inputs included.

    Raises:
      UnsupRuleError: PyTorch is not installed.
    """
    return self._exported("torch", "to_torch")

  def to_onnx(self, path: str | os.PathLike) -> None:
    """Writes what `transform` computes, as an ONNX model: float32 input x, output embedding.

    Raises:
      UnsupRuleError: the package onnx is not installed, or the file cannot be written.
    """
    model = self._exported("onnx", "to_onnx")
    storage.write_bytes(locations.expanded(path), model.SerializeToString())

  def _exported(self, framework: str, what: str):
    """The frozen network as a model of a framework, which is imported here."""
    check_is_fitted(self)
    extras.needed(framework, f"UnsupervisedFeatures.{what}")
    n, scaler = self.mlp_.n_inputs, self.scaler_
    mean = np.zeros(n) if scaler is None else np.asarray(scaler.mean_)
    scale = np.ones(n) if scaler is None else np.asarray(scaler.scale_)
    layers = [
      pair
      for stack in self.network_
      for pair in zip(np.asarray(stack.w), np.asarray(stack.b), strict=True)
    ]
    beside = self._inputs
    inputs = None if beside is None else (np.asarray(beside.mean), np.asarray(beside.scale))
    plain = Plain.of(mean, scale, layers, self.mlp_.nonlinearity, inputs)
    return importlib.import_module(f"unsup_rule.exports.{framework}_model").build(plain)

  def _unfitted(self) -> "UnsupervisedFeatures":
    """A copy of the parameters alone, checked."""
    self._validate_params()
    return type(self)(**self.get_params(deep=False))

  def _copied(self) -> "UnsupervisedFeatures":
    """A copy whose training goes on without a trace in this one."""
    self._validate_params()
    new = copy.copy(self)
    new.scaler_, new._random, new._sample = copy.deepcopy(
      (self.scaler_, self._random, self._sample)
    )
    return new

  def _become(self, new: "UnsupervisedFeatures", begun: bool) -> "UnsupervisedFeatures":
    """Takes over all that the copy has learned; one that began has used up random numbers."""
    if begun:
      check_random_state(self.random_state).set_state(new._random.get_state())
    learned = {
      name: value for name, value in vars(new).items() if name not in self._parameter_constraints
    }
    vars(self).pop("feature_names_in_", None)
    vars(self).update(learned)
    return self

  def _begin(self, n_inputs: int) -> Pretrained:
    """Sets what training starts from."""
    rule = self._rule(self.n_features)
    # A copy, so that a fit that fails leaves a RandomState of the caller's as it was.
    self._random = copy.deepcopy(check_random_state(self.random_state))
    self.mlp_ = MLP(n_inputs, self._hidden(), self.n_features, self.nonlinearity)
    self.params_ = programs.initial(self.mlp_, self._random.randint(2**31 - 1))
    self.order_ = self._random.permutation(n_inputs)
    self.n_steps_ = 0
    self.scaler_ = StandardScaler() if self.standardize else None
    self._output = self.output
    self._sample = Sample(n_inputs)
    self._waiting = np.zeros((0, n_inputs))
    return rule

  def _train(
    self,
    rule: Pretrained,
    rows: programs.Rows,
    batches: Iterator[np.ndarray],
    steps: int,
  ) -> None:
    with tqdm(total=steps, desc="applying the rule", disable=not self.verbose) as bar:
      params = programs.train(
        (rule.sizes, rule.theta, rule.schedule),
        self.mlp_,
        self.params_.permuted(self.order_),
        self.n_steps_,
        lambda numbers: rows(numbers)[..., self.order_],
        batches,
        bar.update,
      )
    moved = params.permuted(np.argsort(self.order_))
    self.params_ = jax.tree.map(np.asarray, moved)
    self.n_steps_ += steps

  def _frozen(self) -> "UnsupervisedFeatures":
    """Makes the network that `transform` computes with."""
    sample = self._sample.rows
    x = self._rows(sample)(np.arange(len(sample)))
    self.network_ = programs.freeze(self.mlp_, self.params_, x)
    self._inputs = programs.centred(x) if self._output == "layers" else None
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((self.params_, self.network_))):
      raise UnsupRuleError(
        f"the weights are not finite after {self.n_steps_} steps; use fewer, or another rule"
      )
    return self

  def _count(self, X: Matrix) -> None:
    """Takes rows into account for the scale of inputs and the statistics of layers."""
    if not X.shape[0]:  # pyright: ignore[reportOptionalSubscript]
      return
    if self.scaler_ is not None:
      self.scaler_.partial_fit(dense(X))
    self._sample.add(X, self._random)

  def _rule(self, n_features: int) -> Pretrained:
    rule = pretrained(self.rule)
    if n_features != rule.sizes.output_size:
      raise UnsupRuleError(
        f"n_features is {n_features}, but rule {rule.name!r} is made for "
        f"{rule.sizes.output_size}; use n_features={rule.sizes.output_size}, or meta-train a rule "
        f"with UnsupervisedRule.output_size={n_features}"
      )
    return rule

  def _hidden(self) -> tuple[int, ...]:
    given: Any = self.hidden
    if not isinstance(given, numbers.Integral) and np.ndim(given) != 1:
      raise UnsupRuleError(f"hidden is {given!r}; give a number of units, or a list of them")
    widths = (given,) if isinstance(given, numbers.Integral) else tuple(given)
    for width in widths:
      if not isinstance(width, numbers.Integral) or isinstance(width, bool) or width < 1:
        raise UnsupRuleError(f"hidden is {self.hidden!r}; give whole numbers of units, from 1 up")
    return tuple(int(width) for width in widths)

  def _batch(self, rule: Pretrained) -> int:
    return rule.use.batch_size if self.batch_size is None else self.batch_size

  def _batches(self, n_rows: int, size: int) -> Iterator[np.ndarray]:
    """Numbers of the rows of each batch, in a new order each pass."""
    while True:
      order = self._random.permutation(n_rows)
      for start in range(0, n_rows - size + 1, size):
        yield order[start : start + size]

  def _rows(self, X: Matrix) -> programs.Rows:
    """Rows of X as the network takes them; standardised in the precision of X, then float32."""
    names = getattr(self, "feature_names_in_", None)

    def rows(which: np.ndarray) -> np.ndarray:
      raw = dense(X[which.ravel()])
      scaler: Any = self.scaler_
      values = raw if scaler is None else (raw - scaler.mean_) / scaler.scale_
      check_size(values, raw, names)
      return values.astype(np.float32).reshape(*which.shape, -1)

    return rows

  def _validated(self, X: Any, reset: bool) -> Matrix:
    least = 2 if reset else 1
    validate: Any = validate_data
    X = validate(
      self,
      X,
      reset=reset,
      accept_sparse="csr",
      dtype=[np.float64, np.float32],
      ensure_min_samples=least,
    )
    return sparse.csr_matrix(X) if sparse.issparse(X) else X

  @property
  def _n_features_out(self) -> int:
    return outputs.width(self.mlp_, self._output)

  def __sklearn_tags__(self):
    tags = super().__sklearn_tags__()
    tags.input_tags.sparse = True
    tags.transformer_tags.preserves_dtype = ["float32"]
    return tags
