"""The meta-training distribution over task families, as gin files set it (the paper, 4.2)."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.task import MLPTaskFamily, configured_probe
from unsup_rule.probe import RidgeProbe
from unsup_rule.rule import outputs
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import DatasetSpec


@dataclasses.dataclass(frozen=True)
class TaskDistribution:
  """Task families in buckets: one a combination of input shape and architecture.

  All data sets of one input shape share a family, so that a new problem, from whichever of them,
  runs the program that is compiled already. A bucket's family is made once.

  Attributes:
    sources: data sets, each a name or a dictionary, see `DatasetSpec`.
    depths: numbers of hidden layers.
    widths: of all hidden layers of a model.
    hidden: the widths of the hidden layers of each model, in place of all combinations of the two
      before: ((512,), (128, 128)) are two models.
    n_outputs: width of the embedding.
    nonlinearities: names of them.
    batch_size: unlabelled examples of an inner step.
    examples_per_class: labelled examples of a class on each side of the probe.
    permute: whether each task permutes its inputs, or the share of tasks that do.
    probe: the meta-objective; by default as gin binds it.
    output: what it reads of a base model, "embedding" or "layers", as `UnsupervisedFeatures` gives
      them.
  """

  sources: Sequence[str | Mapping[str, Any] | DatasetSpec]
  depths: Sequence[int] = (4,)
  widths: Sequence[int] = (128,)
  hidden: Sequence[Sequence[int]] = ()
  n_outputs: int = 32
  nonlinearities: Sequence[str] = ("relu",)
  batch_size: int = 128
  examples_per_class: int = 10
  permute: float = True
  probe: RidgeProbe | None = None
  output: str = "embedding"

  def __post_init__(self):
    specs = tuple(DatasetSpec.from_settings(source) for source in self.sources)
    object.__setattr__(self, "sources", specs)
    if not specs:
      raise UnsupRuleError("no data set to train on; name one in task_distribution.sources")
    for name in ("depths", "widths", "nonlinearities"):
      values = tuple(getattr(self, name))
      if not values:
        raise UnsupRuleError(f"task_distribution.{name} is empty; give at least one value")
      object.__setattr__(self, name, values)
    if min(self.depths) < 0:
      raise UnsupRuleError(f"task_distribution.depths is {self.depths}; give numbers from 0 up")
    if self.examples_per_class < 1:
      raise UnsupRuleError(
        f"task_distribution.examples_per_class is {self.examples_per_class}; give at least 1"
      )
    outputs.check(self.output, "task_distribution.output")
    object.__setattr__(self, "hidden", tuple(tuple(widths) for widths in self.hidden))

  @property
  def architectures(self) -> tuple[tuple[Sequence[int], str], ...]:
    """All combinations of hidden layers and nonlinearity."""
    grid = itertools.product(self.depths, self.widths)
    hidden = self.hidden or [(width,) * depth for depth, width in grid]
    return tuple(itertools.product(hidden, self.nonlinearities))

  @functools.cached_property
  def samplers(self) -> tuple[TaskSampler, ...]:
    """Of each input shape."""
    groups: dict[tuple, list] = {}
    for data_set in map(DatasetSpec.from_settings, self.sources):
      resolutions = data_set.resolutions or (None,)
      for resolution in resolutions:
        source = data_set.source(resolution, data_set.weight / len(resolutions))
        groups.setdefault((source.dataset.shape, source.dataset.scale), []).append(source)
    return tuple(
      TaskSampler(group, self.batch_size, self.examples_per_class, permute=self.permute)
      for group in groups.values()
    )

  @functools.cached_property
  def probabilities(self) -> np.ndarray:
    """Of each input shape."""
    weights = np.array([sum(s.weight for s in sampler.sources) for sampler in self.samplers])
    return weights / weights.sum()

  @functools.cached_property
  def _families(self) -> dict[tuple[int, int], MLPTaskFamily]:
    return {}

  def family(self, shape: int, architecture: int) -> MLPTaskFamily:
    """The task family of a bucket, by the indices of its input shape and architecture."""
    bucket = (shape, architecture)
    if bucket not in self._families:
      hidden, nonlinearity = self.architectures[architecture]
      self._families[bucket] = MLPTaskFamily(
        self.samplers[shape],
        hidden,
        self.n_outputs,
        nonlinearity,
        self.probe,
        output=self.output,
      )
    return self._families[bucket]

  def sample(self, key: jax.Array) -> MLPTaskFamily:
    """Draws a bucket's family."""
    rng = np.random.default_rng(np.asarray(key, np.uint32).tolist())
    shape = rng.choice(len(self.samplers), p=self.probabilities)
    return self.family(int(shape), int(rng.integers(len(self.architectures))))


_KEPT = 4  # Distributions of one process, with their examples; a run has one.


@functools.lru_cache(maxsize=_KEPT)
def _the_first_of(
  distribution: TaskDistribution, loading: tuple[tuple[str, object], ...]
) -> TaskDistribution:
  """Returns the first of equal ones, which may have made families already."""
  del loading
  return distribution


@gin.configurable(module="unsup_rule")
def task_distribution(
  sources: Sequence[str | Mapping[str, Any] | DatasetSpec] = gin.REQUIRED,
  depths: Sequence[int] = (4,),
  widths: Sequence[int] = (128,),
  hidden: Sequence[Sequence[int]] = (),
  n_outputs: int = 32,
  nonlinearities: Sequence[str] = ("relu",),
  batch_size: int = 128,
  examples_per_class: int = 10,
  permute: float = True,
  probe: RidgeProbe | None = None,
  output: str = "embedding",
) -> TaskDistribution:
  """The `TaskDistribution` of these settings, made once a process; gin sets them here."""
  distribution = TaskDistribution(
    sources,
    depths,
    widths,
    hidden,
    n_outputs,
    nonlinearities,
    batch_size,
    examples_per_class,
    permute,
    probe or configured_probe(),
    output,
  )
  # How examples are loaded has settings of its own.
  return _the_first_of(distribution, tuple(sorted(gin.get_bindings("load_data").items())))


@gin.configurable(module="unsup_rule")
def sample_task_family(key: jax.Array) -> MLPTaskFamily:
  """For `build_gradient_estimators.sample_task_family_fn`: draws from `task_distribution`."""
  return task_distribution().sample(key)
