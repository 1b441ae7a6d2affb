"""Few-shot tasks drawn on the device from datasets in memory: which classes, which permutation.

Everything random is a function of a key, so a stream of tasks and batches is resumed by resuming
its key, and nothing crosses from the host while a truncation runs.

Shape legend: B unlabelled examples, K labelled examples a side, P = n_0 inputs, W ways.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from unsup_rule import prng
from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.probe import Targets
from unsup_rule.tasks.augment import KINDS, N_TARGETS, AugmentationParams, augment
from unsup_rule.tasks.sources import Source


@struct.dataclass
class TaskParams:
  """What one task is: classes of one source, one permutation of the inputs, one augmentation.

  Attributes:
    source: index of the source.
    ways: number of classes W.
    classes: ids in the joint dataset [max_ways]; only the first `ways` count.
    permutation: of the inputs, [P].
    augmentation: largest coefficients.
  """

  source: jax.Array
  ways: jax.Array
  classes: jax.Array
  permutation: jax.Array
  augmentation: AugmentationParams


class TaskSampler:
  """Draws tasks of one or several sources of one input shape, and their examples.

  Args:
    sources: data sets; all of one image shape.
    batch_size: B, unlabelled examples of an inner step.
    examples_per_class: labelled examples of a class on each side of the probe. A task of fewer
      ways than the largest gets more a class, so that shapes stay fixed.
    permute: draw one permutation of the inputs for each task, or for this share of them.
  """

  def __init__(
    self,
    sources: Sequence[Source],
    batch_size: int = 128,
    examples_per_class: int = 10,
    permute: float = True,
  ):
    self.sources = tuple(sources)
    _check(self.sources, batch_size, examples_per_class, permute)
    self.batch_size = batch_size
    self.permute = permute
    self.shape = self.sources[0].dataset.shape
    self.n_inputs = self.sources[0].dataset.n_inputs
    self.max_ways = max(max(source.ways) for source in self.sources)
    self.n_labelled = examples_per_class * self.max_ways
    for source in self.sources:
      source.dataset.require_per_class(2 * -(-self.n_labelled // min(source.ways)))
    largest = np.array([source.augmentation.largest for source in self.sources])
    self.kinds = frozenset(kind for i, kind in enumerate(KINDS) if largest[:, i].any())
    self.n_targets = N_TARGETS if self.kinds & {"rotation", "shift", "noise"} else 0
    self._images = jnp.asarray(np.concatenate([source.dataset.images for source in self.sources]))
    self._scale = self.sources[0].dataset.scale
    self._classes = _Classes.of([source.dataset for source in self.sources])
    self._ways = _Ways.of(self.sources)
    weights = np.array([source.weight for source in self.sources], np.float64)
    self._log_weights = jnp.asarray(np.log(weights / weights.sum()), jnp.float32)
    self._augmentations = jnp.asarray(largest, jnp.float32)
    self._augmentation_probabilities = jnp.asarray(
      [source.augmentation.probabilities for source in self.sources], jnp.float32
    )

  @property
  def source_names(self) -> tuple[str, ...]:
    """Names of the data sets, by `TaskParams.source`."""
    return tuple(source.dataset.name for source in self.sources)

  @property
  def nbytes(self) -> int:
    """Memory of the examples on the device, bytes."""
    return self._images.nbytes

  def class_names(self, task_params: TaskParams) -> list[str]:
    """Names of the classes of a task, by label."""
    names = [name for source in self.sources for name in source.dataset.class_names]
    return [names[c] for c in np.asarray(task_params.classes)[: int(task_params.ways)]]

  def sample(self, key: jax.Array) -> TaskParams:
    """Draws a task: source, ways, classes, permutation, augmentation."""
    source_key, ways_key, class_key, permutation_key, augmentation_key = prng.split(key, 5)
    source = jax.random.categorical(source_key, self._log_weights)
    choice = prng.integers(ways_key, (), self._ways.number[source])
    most = int(max(source.dataset.n_classes for source in self.sources))
    lottery = prng.uniform(class_key, (most,))
    lottery = jnp.where(jnp.arange(most) < self._classes.number[source], lottery, 2.0)
    classes = self._classes.first[source] + jnp.argsort(lottery)[: self.max_ways]
    # One key a kind beyond the first three, which keep the draws that recorded runs had.
    lots = [prng.uniform(augmentation_key, (3,))]
    lots += [
      prng.uniform(jax.random.fold_in(augmentation_key, i), (1,)) for i in range(3, len(KINDS))
    ]
    drawn = jnp.concatenate(lots) < self._augmentation_probabilities[source]
    return TaskParams(
      source=source,
      ways=self._ways.choices[source, choice],
      classes=classes.astype(jnp.int32),
      permutation=self._permutation(permutation_key),
      augmentation=AugmentationParams(*jnp.where(drawn, self._augmentations[source], 0.0)),
    )

  def _permutation(self, key: jax.Array) -> jax.Array:
    """A random order of the inputs, or their own: [P]."""
    own = jnp.arange(self.n_inputs, dtype=jnp.int32)
    if not self.permute:
      return own
    drawn = jax.random.permutation(key, own)
    if self.permute == 1:
      return drawn
    return jnp.where(prng.uniform(jax.random.fold_in(key, 0)) < self.permute, drawn, own)

  def unlabelled(self, task_params: TaskParams, key: jax.Array) -> jax.Array:
    """B examples of the task's classes, all equally likely: [B, P]."""
    label_key, example_key = prng.split(key)
    labels_B = prng.integers(label_key, (self.batch_size,), task_params.ways)
    return self._examples(task_params, labels_B, example_key)[0]

  def labelled(self, task_params: TaskParams, key: jax.Array) -> tuple[jax.Array, Targets, Targets]:
    """K train, then K test examples [2K, P] and their targets; classes take turns, shuffled."""
    order_key, example_key = prng.split(key)
    label_keys = prng.split(order_key)
    turns_K = jnp.arange(self.n_labelled) % task_params.ways
    labels_2K = jnp.concatenate([jax.random.permutation(k, turns_K) for k in label_keys])
    x, targets = self._examples(task_params, labels_2K, example_key, distinct=True)
    k = self.n_labelled
    return x, Targets(labels_2K[:k], targets[:k]), Targets(labels_2K[k:], targets[k:])

  def _examples(
    self, task_params: TaskParams, labels: jax.Array, key: jax.Array, distinct: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """One random example for each label: inputs [len, P] and augmentation targets [len, 0 or 5]."""
    row_key, augment_key = prng.split(key)
    classes = task_params.classes[labels]
    counts = self._classes.counts[classes]
    if distinct:
      offsets = self._distinct_offsets(task_params, labels, row_key)
    else:
      offsets = _random_below(row_key, counts)
    rows = self._classes.starts[classes] + offsets
    images = self._images[rows].astype(jnp.float32) * self._scale
    targets = jnp.zeros((labels.shape[0], 0))
    if self.kinds:
      images, coefficients = augment(images, task_params.augmentation, self.kinds, augment_key)
      targets = coefficients[:, : self.n_targets]
    x = images.reshape(labels.shape[0], self.n_inputs)
    return x[:, task_params.permutation], targets

  def _distinct_offsets(
    self, task_params: TaskParams, labels: jax.Array, key: jax.Array
  ) -> jax.Array:
    """Offsets within each example's class, no two alike: train and test must not share an example.

    The j-th example of a class is number (start + j stride) mod count, start and stride random.
    """
    start_key, stride_key = prng.split(key)
    counts_W = self._classes.counts[task_params.classes]
    starts_W = _random_below(start_key, counts_W)
    column_W = prng.integers(stride_key, counts_W.shape, self._classes.strides.shape[1])
    strides_W = self._classes.strides[task_params.classes, column_W]
    one_hot = jax.nn.one_hot(labels, self.max_ways, dtype=jnp.int32)
    rank = jnp.sum(one_hot * (jnp.cumsum(one_hot, axis=0) - 1), axis=1)
    return (starts_W[labels] + rank * strides_W[labels]) % counts_W[labels]


class _Classes(NamedTuple):
  """The classes of all sources, one after the other, as arrays on the device.

  Attributes:
    starts, counts: of each class, its rows among the examples.
    strides: [classes, 16], see `_strides`.
    first: of each source, its first class.
    number: of each source, of classes.
  """

  starts: jax.Array
  counts: jax.Array
  strides: jax.Array
  first: jax.Array
  number: jax.Array

  @classmethod
  def of(cls, datasets: Sequence[Dataset]) -> Self:
    """The classes of data sets whose examples are laid one after the other."""
    first_rows = np.cumsum([0] + [len(dataset) for dataset in datasets[:-1]])
    first_classes = np.cumsum([0] + [dataset.n_classes for dataset in datasets[:-1]])
    starts = [dataset.starts + row for dataset, row in zip(datasets, first_rows, strict=True)]
    counts = np.concatenate([dataset.counts for dataset in datasets])
    return cls(
      jnp.asarray(np.concatenate(starts), jnp.int32),
      jnp.asarray(counts, jnp.int32),
      jnp.asarray(_strides(counts)),
      jnp.asarray(first_classes, jnp.int32),
      jnp.asarray([dataset.n_classes for dataset in datasets], jnp.int32),
    )


class _Ways(NamedTuple):
  """Of each source, the numbers of classes of its tasks.

  Attributes:
    choices: [sources, most choices]; those past `number` do not count.
    number: of choices, [sources].
  """

  choices: jax.Array
  number: jax.Array

  @classmethod
  def of(cls, sources: Sequence[Source]) -> Self:
    """Those of sources."""
    number = [len(source.ways) for source in sources]
    choices = np.zeros((len(sources), max(number)), np.int32)
    for row, source in zip(choices, sources, strict=True):
      row[: len(source.ways)] = source.ways
    return cls(jnp.asarray(choices), jnp.asarray(number, jnp.int32))


def _check(
  sources: Sequence[Source], batch_size: int, examples_per_class: int, permute: float
) -> None:
  if not sources:
    raise UnsupRuleError("no data source given; name at least one in task_distribution.sources")
  first, *others = [source.dataset for source in sources]
  for dataset in others:
    if dataset.shape != first.shape or dataset.scale != first.scale:
      raise UnsupRuleError(
        f"{dataset.name} has inputs {dataset.shape} but {first.name} has {first.shape}; sources of "
        "one family need one shape and scale: set a common resolution and grey"
      )
  if batch_size < 2:
    raise UnsupRuleError(
      f"batch_size {batch_size}: batch normalisation needs at least 2 examples; use 32 or more"
    )
  if examples_per_class < 1:
    raise UnsupRuleError(f"examples_per_class is {examples_per_class}; give at least 1")
  if not 0 <= permute <= 1:
    raise UnsupRuleError(f"permute is {permute}; give a share from 0 to 1")


def _random_below(key: jax.Array, counts: jax.Array) -> jax.Array:
  """A random number from 0 to count - 1 for each count."""
  drawn = prng.uniform(key, counts.shape) * counts.astype(jnp.float32)
  return jnp.minimum(drawn.astype(jnp.int32), counts - 1)  # the product may round up


def _strides(counts: np.ndarray) -> np.ndarray:
  """[n_classes, 16] strides coprime to each class's count, so that multiples never repeat."""
  rng = np.random.default_rng(0)
  table = np.ones((len(counts), 16), np.int32)
  for row, count in zip(table, counts, strict=True):
    candidates = np.arange(1, count)
    candidates = candidates[np.gcd(candidates, count) == 1]
    if len(candidates):
      row[:] = rng.choice(candidates, len(row))
  return table
