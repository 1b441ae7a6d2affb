"""One cell of an evaluation: data, architecture and protocol."""

import dataclasses
import functools
import hashlib
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.data import Dataset
from unsup_rule.data.sets import are_vectors
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import MLP
from unsup_rule.tasks.augment import Augmentation, AugmentationParams, augment
from unsup_rule.tasks.sources import ExamplesSpec

_HALF = re.compile(r"(?P<split>.+)\[(?P<first>[01])::2\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(ExamplesSpec):
  """A data set and what of it is used.

  Attributes:
    train_split: inputs that base models are trained on, without their labels; "valid[0::2]" is
      every second example of each class of the split "valid", and "valid[1::2]" the others.
    test_split: labelled and query examples are drawn from it.
    resolution: pixels a side; None for the set's own.
    thickness, shading: strokes are made thicker and unevenly lit, see `Augmentation`.
  """

  train_split: str = "train"
  test_split: str = "test"
  resolution: int | None = None
  thickness: float = 0.0
  shading: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if _overlap(self.train_split, self.test_split):
      raise UnsupRuleError(
        f"data set {self.name!r}: split {self.test_split!r} would be trained and tested on; give "
        "train_split and test_split different values"
      )

  @property
  def n_inputs(self) -> int:
    """How many numbers an example has, roughly, if the set's own resolution is taken."""
    side = self.resolution or 28
    return side if are_vectors(self.name) else side**2

  @property
  def label(self) -> str:
    """For people: "mnist 14x14"."""
    size = ""
    if self.resolution:
      one = self.resolution
      size = f" of {one}" if are_vectors(self.name) else f" {one}x{one}"
    colour = " grey" if self.grey else ""
    classes = f" classes {','.join(map(str, self.classes))}" if self.classes else ""
    filled = " filled" if self.thickness or self.shading else ""
    return f"{self.name}{size}{colour}{filled}{classes}"

  def load(self, split: str) -> Dataset:
    """Loads the examples of a split."""
    half = _HALF.fullmatch(split)
    dataset = self.examples(half["split"] if half else split, self.resolution)
    if self.thickness or self.shading:
      dataset = _augmented(dataset, Augmentation(thickness=self.thickness, shading=self.shading))
    return _half(dataset, split, int(half["first"])) if half else dataset


def _overlap(one: str, other: str) -> bool:
  """Whether two splits share examples, as far as their names tell."""
  half, other_half = _HALF.fullmatch(one), _HALF.fullmatch(other)
  whole, other_whole = (h["split"] if h else s for h, s in ((half, one), (other_half, other)))
  return whole == other_whole and not (half and other_half and one != other)


def _half(dataset: Dataset, split: str, first: int) -> Dataset:
  """Every second example of each class, from number `first` on."""
  rows = np.concatenate(
    [
      np.arange(start + first, start + count, 2)
      for start, count in zip(dataset.starts, dataset.counts, strict=True)
    ]
  )
  images, labels = dataset.images[rows], dataset.labels[rows]
  return Dataset.build(dataset.name, split, images, labels, dataset.class_names, dataset.scale)


@functools.lru_cache(maxsize=8)
def _augmented(dataset: Dataset, augmentation: Augmentation) -> Dataset:
  """Each example drawn once under the augmentation, as uint8 again."""
  params = AugmentationParams(*map(jnp.float32, augmentation.largest))
  images = dataset.images.astype(np.float32) * dataset.scale
  kinds = ("thickness", "shading")
  drawn, _ = jax.jit(augment, static_argnums=2)(images, params, kinds, jax.random.PRNGKey(0))
  stored = np.rint(np.clip(np.asarray(drawn) / dataset.scale, 0, 255)).astype(np.uint8)
  return dataclasses.replace(dataset, images=stored)


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

  @functools.cached_property
  def digest(self) -> str:
    """Of all values, for what is made from them and kept."""
    content = hashlib.sha256(np.ascontiguousarray(self.values_NxP).data)
    content.update(repr((self.values_NxP.shape, self.values_NxP.dtype.str, self.scale)).encode())
    return content.hexdigest()


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
    layers: whether the features of every layer are probed too, of the rule and untrained.
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
  layers: bool = False

  def __post_init__(self):
    object.__setattr__(self, "steps", tuple(self.steps))
    if not self.steps or min(self.steps) < 0 or sorted(set(self.steps)) != list(self.steps):
      raise UnsupRuleError(f"evaluate.steps is {self.steps}; give increasing numbers from 0 up")
    if self.seeds < 2:
      raise UnsupRuleError(f"evaluate.seeds is {self.seeds}; a standard error needs at least 2")
    for name in ("draws", "examples_per_class", "width"):
      if getattr(self, name) < 1:
        raise UnsupRuleError(f"evaluate: {name} is {getattr(self, name)}; give at least 1")
    if self.seed < 0:
      raise UnsupRuleError(f"evaluate.seed is {self.seed}; give 0 or more")
    if self.hidden_layers < 0 or self.batch_size < 2:
      raise UnsupRuleError(
        f"evaluate: {self.hidden_layers} hidden layers at batch size {self.batch_size}; give at "
        "least 0 and 2"
      )

  @property
  def size(self) -> float:
    """Time of a step, roughly, where four layers of 128 units on 14 x 14 inputs take 1."""
    layers = (
      self.data.n_inputs,
      *(self.width,) * self.hidden_layers,
      self.n_outputs,
    )
    weights = sum(a * b for a, b in itertools.pairwise(layers))
    return weights / 78_336 * self.batch_size / 128

  def mlp(self, n_inputs: int) -> MLP:
    """The base model."""
    return MLP(n_inputs, (self.width,) * self.hidden_layers, self.n_outputs, self.nonlinearity)

  def as_dict(self) -> dict[str, object]:
    """Plain values, as they come back from JSON."""
    return json.loads(json.dumps(dataclasses.asdict(self)))
