"""One cell of an evaluation: data, architecture and protocol."""

import dataclasses
import json

import numpy as np

from unsup_rule.data import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import MLP
from unsup_rule.tasks.sources import ExamplesSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(ExamplesSpec):
  """A data set and what of it is used.

  Attributes:
    train_split: inputs that base models are trained on, without their labels.
    test_split: labelled and query examples are drawn from it.
    resolution: pixels a side; None for the set's own.
  """

  train_split: str = "train"
  test_split: str = "test"
  resolution: int | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.train_split == self.test_split:
      raise UnsupRuleError(
        f"data set {self.name!r}: split {self.test_split!r} would be trained and tested on; give "
        "train_split and test_split different values"
      )

  @property
  def label(self) -> str:
    """For people: "mnist 14x14"."""
    size = f" {self.resolution}x{self.resolution}" if self.resolution else ""
    colour = " grey" if self.grey else ""
    classes = f" classes {','.join(map(str, self.classes))}" if self.classes else ""
    return f"{self.name}{size}{colour}{classes}"

  def load(self, split: str) -> Dataset:
    """Loads the examples of a split."""
    return self.examples(split, self.resolution)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a base model is trained on: inputs and no labels.

  Attributes:
    values_NxP: flattened, as stored (uint8 or float32).
    scale: model inputs are `values * scale`.
    is_image: whether model inputs are in [0, 1].
  """

  values_NxP: np.ndarray
  scale: float
  is_image: bool

  @classmethod
  def of(cls, dataset: Dataset) -> "Inputs":
    """The inputs of a dataset."""
    return cls(dataset.images.reshape(len(dataset), -1), dataset.scale, dataset.is_image)


@dataclasses.dataclass(frozen=True)
class Setting:
  """Everything that a cell's numbers depend on, but for the method and its theta.

  Attributes:
    data: the data set.
    width: units of each hidden layer.
    hidden_layers: their number; the embedding is one more layer.
    n_outputs: units of the embedding.
    nonlinearity: a name in `unsup_rule.rule.mlp.NONLINEARITIES`.
    permute: whether each seed shuffles the inputs by a permutation of its own.
    batch_size: examples of one step.
    steps: training steps after which features are measured, increasing.
    seeds: base models, each with its own initial weights and permutation.
    draws: labelled draws for each base model.
    examples_per_class: labelled examples of a class in a draw; as many again are predicted.
    seed: of everything random.
  """

  data: Data
  width: int = 128
  hidden_layers: int = 4
  n_outputs: int = 32
  nonlinearity: str = "relu"
  permute: bool = True
  batch_size: int = 128
  steps: tuple[int, ...] = (0, 100)
  seeds: int = 10
  draws: int = 20
  examples_per_class: int = 10
  seed: int = 0

  def __post_init__(self):
    object.__setattr__(self, "steps", tuple(self.steps))
    if not self.steps or min(self.steps) < 0 or sorted(set(self.steps)) != list(self.steps):
      raise UnsupRuleError(f"evaluate.steps is {self.steps}; give increasing numbers from 0 up")
    if self.seeds < 2:
      raise UnsupRuleError(f"evaluate.seeds is {self.seeds}; a standard error needs at least 2")
    for name in ("draws", "examples_per_class", "width"):
      if getattr(self, name) < 1:
        raise UnsupRuleError(f"evaluate: {name} is {getattr(self, name)}; give at least 1")
    if self.hidden_layers < 0 or self.batch_size < 2:
      raise UnsupRuleError(
        f"evaluate: {self.hidden_layers} hidden layers at batch size {self.batch_size}; give at "
        "least 0 and 2"
      )

  def mlp(self, n_inputs: int) -> MLP:
    """The base model."""
    return MLP(n_inputs, (self.width,) * self.hidden_layers, self.n_outputs, self.nonlinearity)

  def as_dict(self) -> dict[str, object]:
    """Plain values, as they come back from JSON."""
    return json.loads(json.dumps(dataclasses.asdict(self)))
