"""The meta-training distribution over task families, as gin files set it (the paper, 4.2)."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.task import MLPTaskFamily
from unsup_rule.probe import RidgeProbe
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import DatasetSpec


class TaskDistribution:
  """Task families in buckets: one a combination of input shape and architecture.

  All data sets of one input shape share a family, so that a new problem, from whichever of them,
  runs the program that is compiled already. A bucket's family is made once.

  Args:
    sources: data sets, each a name or a dictionary, see `DatasetSpec`.
    depths: numbers of hidden layers.
    widths: of all hidden layers of a model.
    n_outputs: width of the embedding.
    nonlinearities: names of them.
    batch_size: unlabelled examples of an inner step.
    examples_per_class: labelled examples of a class on each side of the probe.
    permute: whether each task permutes its inputs, or the share of tasks that do.
    probe: the meta-objective.
  """

  def __init__(
    self,
    sources: Sequence[str | Mapping[str, Any]],
    depths: Sequence[int] = (4,),
    widths: Sequence[int] = (128,),
    n_outputs: int = 32,
    nonlinearities: Sequence[str] = ("relu",),
    batch_size: int = 128,
    examples_per_class: int = 10,
    permute: float = True,
    probe: RidgeProbe | None = None,
  ):
    self.data_sets = tuple(DatasetSpec.from_settings(source) for source in sources)
    if not self.data_sets:
      raise UnsupRuleError("no data set to train on; name one in task_distribution.sources")
    for name, values in (
      ("depths", depths),
      ("widths", widths),
      ("nonlinearities", nonlinearities),
    ):
      if not values:
        raise UnsupRuleError(f"task_distribution.{name} is empty; give at least one value")
    self.architectures = tuple(itertools.product(depths, widths, nonlinearities))
    self._n_outputs = n_outputs
    self._options = {
      "batch_size": batch_size,
      "examples_per_class": examples_per_class,
      "permute": permute,
    }
    self._probe = probe
    self._families: dict[tuple[int, int], MLPTaskFamily] = {}

  @functools.cached_property
  def samplers(self) -> tuple[TaskSampler, ...]:
    """Of each input shape."""
    groups: dict[tuple, list] = {}
    for data_set in self.data_sets:
      resolutions = data_set.resolutions or (None,)
      for resolution in resolutions:
        source = data_set.source(resolution, data_set.weight / len(resolutions))
        groups.setdefault((source.dataset.shape, source.dataset.scale), []).append(source)
    return tuple(TaskSampler(group, **self._options) for group in groups.values())

  @functools.cached_property
  def probabilities(self) -> np.ndarray:
    """Of each input shape."""
    weights = np.array([sum(s.weight for s in sampler.sources) for sampler in self.samplers])
    return weights / weights.sum()

  def family(self, shape: int, architecture: int) -> MLPTaskFamily:
    """The task family of a bucket, by the indices of its input shape and architecture."""
    bucket = (shape, architecture)
    if bucket not in self._families:
      depth, width, nonlinearity = self.architectures[architecture]
      self._families[bucket] = MLPTaskFamily(
        self.samplers[shape], (width,) * depth, self._n_outputs, nonlinearity, self._probe
      )
    return self._families[bucket]

  def sample(self, key: jax.Array) -> MLPTaskFamily:
    """Draws a bucket's family."""
    rng = np.random.default_rng(np.asarray(key, np.uint32).tolist())
    shape = rng.choice(len(self.samplers), p=self.probabilities)
    return self.family(int(shape), int(rng.integers(len(self.architectures))))


_distributions: dict[str, TaskDistribution] = {}


@gin.configurable(module="unsup_rule")
def task_distribution(
  sources=gin.REQUIRED,
  depths=(4,),
  widths=(128,),
  n_outputs=32,
  nonlinearities=("relu",),
  batch_size=128,
  examples_per_class=10,
  permute=True,
  probe=None,
) -> TaskDistribution:
  """The `TaskDistribution` of these settings, made once a process; gin sets them here."""
  settings = {
    "sources": sources,
    "depths": depths,
    "widths": widths,
    "n_outputs": n_outputs,
    "nonlinearities": nonlinearities,
    "batch_size": batch_size,
    "examples_per_class": examples_per_class,
    "permute": permute,
    "probe": probe,
  }
  # Data sets have settings of their own, so all of gin's count.
  key = f"{settings}\n{gin.config_str()}"
  if key not in _distributions:
    _distributions[key] = TaskDistribution(**settings)
  return _distributions[key]


@gin.configurable(module="unsup_rule")
def sample_task_family(key: jax.Array) -> MLPTaskFamily:
  """For `build_gradient_estimators.sample_task_family_fn`: draws from `task_distribution`."""
  return task_distribution().sample(key)
