"""The base MLP on few-shot problems as a learned_optimization `Task` and `TaskFamily`."""

import functools
from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp

from unsup_rule import compat, prng  # noqa: F401  (first: makes the library importable)
from unsup_rule.errors import UnsupRuleError
from unsup_rule.probe import ProbeResult, RidgeProbe, Targets
from unsup_rule.rule import outputs
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.structures import Activations, Params
from unsup_rule.tasks.sampler import TaskParams, TaskSampler

from learned_optimization.tasks import base as tasks_base  # isort: skip

Batch = Any
# With the values that gin binds; `RidgeProbe()` itself never looks at gin.
configured_probe = gin.external_configurable(RidgeProbe, module="unsup_rule")
# What a truncation keeps for its backward pass is then the inner states, and not all that the probe
# and the base model compute on batches. Within a loop, nothing is merged that should not be.
_rematerialised = functools.partial(jax.checkpoint, prevent_cse=False)


class MLPTask(tasks_base.Task):
  """One problem for one MLP.

  The loss is the few-shot probe on a fresh labelled draw; any gradient optimizer of the library can
  minimise it. The model state handed on beside it is the activations of an unlabelled batch, all
  that the unsupervised rule reads. Whatever is not used is removed by XLA: the rule pays for no
  probe and no gradient, a gradient optimizer for no unlabelled batch.

  Batches are drawn on the device from the step's key. `data` may bring one in their place:
  {"x": [B,P], "probe_x": [2K,P], "train": Targets, "test": Targets}; any part may be left out.
  """

  datasets = None

  def __init__(
    self,
    mlp: MLP,
    sampler: TaskSampler,
    task_params: TaskParams,
    probe: RidgeProbe,
    name: str,
    output: str = "embedding",
  ):
    self.mlp = mlp
    self.sampler = sampler
    self.task_params = task_params
    self.probe = probe
    self.output = output
    self._name = name

  @property
  def name(self) -> str:
    return self._name

  def init(self, key: jax.Array) -> Params:
    """{W, b, V} of the base model."""
    return self.mlp.init(key)

  def init_with_state(self, key: jax.Array) -> tuple[Params, Activations]:
    """Parameters, and zero activations of a batch's shape."""
    params = self.init(key)
    x = jax.ShapeDtypeStruct((self.sampler.batch_size, self.mlp.n_inputs), jnp.float32)
    shapes = jax.eval_shape(self.mlp.apply, params, x)
    return params, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def unlabelled(self, key: jax.Array, data: Batch = None) -> Batch:
    """The unlabelled batch of a step: {"x": [B,P]}, and "mask" [B] where `data` has one."""
    data = dict(data or {})
    if "x" not in data:
      data["x"] = self.sampler.unlabelled(self.task_params, prng.split(key)[0])
    return data

  def labelled(self, key: jax.Array, data: Batch = None) -> tuple[jax.Array, Targets, Targets]:
    """The probe's draw of a step: inputs [2K,P], and the targets of both halves."""
    data = dict(data or {})
    names = ("probe_x", "train", "test")
    if not data.keys() >= set(names):
      drawn = self.sampler.labelled(self.task_params, prng.split(key)[1])
      data = dict(zip(names, drawn, strict=True)) | data
    return data["probe_x"], Targets(*data["train"]), Targets(*data["test"])

  def measure(self, params: Params, key: jax.Array, data: Batch = None) -> ProbeResult:
    """The probe on a labelled draw under the present parameters."""
    x, train, test = self.labelled(key, data)
    features = outputs.read(self.mlp, params, x, self.output)
    return self.probe(features, train, test, self.sampler.max_ways, self.task_params.ways)

  def loss(self, params: Params, key: jax.Array, data: Batch = None) -> jax.Array:
    """The probe's loss, a scalar."""
    return self.measure(params, key, data).loss

  def loss_with_state(
    self, params: Params, state: Any, key: jax.Array, data: Batch = None
  ) -> tuple[jax.Array, Activations]:
    """The probe's loss, and the activations [B, ..] of the unlabelled batch."""
    del state
    activations = _rematerialised(self._activations)(params, key, data)
    return self.loss(params, key, data), activations

  def _activations(self, params: Params, key: jax.Array, data: Batch) -> Activations:
    batch = self.unlabelled(key, data)
    return self.mlp.apply(params, batch["x"], batch.get("mask"))

  def loss_and_aux(
    self, params: Params, key: jax.Array, data: Batch = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The probe's loss and all its scalars by name."""
    result = self.measure(params, key, data)
    return result.loss, result.scalars()

  def loss_with_state_and_aux(
    self, params: Params, state: Any, key: jax.Array, data: Batch = None
  ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """The outer meta-loss: the probe on a second, labelled batch."""
    loss, aux = _rematerialised(self.loss_and_aux)(params, key, data)
    return loss, state, aux


@gin.configurable(module="unsup_rule")
class MLPTaskFamily(tasks_base.TaskFamily):
  """All problems of a distribution, on one architecture.

  Args:
    sampler: where tasks and batches come from.
    hidden: widths of the hidden layers.
    n_outputs: width of the embedding.
    nonlinearity: name of it, see `unsup_rule.rule.mlp.NONLINEARITIES`.
    probe: the meta-objective; by default a `RidgeProbe` as gin binds it.
    name: for summaries; by default sources and architecture.
    output: what the probe reads, "embedding" or "layers", see `unsup_rule.rule.outputs`.
  """

  datasets = None  # drawn on the device
  shareable = True  # among cores, see `compat.shares`

  def __init__(
    self,
    sampler: TaskSampler,
    hidden: Sequence[int] = (128, 128, 128, 128),
    n_outputs: int = 32,
    nonlinearity: str = "relu",
    probe: RidgeProbe | None = None,
    name: str | None = None,
    output: str = "embedding",
  ):
    if not isinstance(sampler, TaskSampler):
      raise UnsupRuleError(
        f"MLPTaskFamily.sampler is {sampler!r}; give a TaskSampler, or let task_distribution "
        "make the families"
      )
    outputs.check(output, "MLPTaskFamily.output")
    self.mlp = MLP(sampler.n_inputs, tuple(hidden), n_outputs, nonlinearity)
    self.sampler = sampler
    self.output = output
    self.probe = configured_probe() if probe is None else probe
    widths = "x".join(str(width) for width in (*self.mlp.hidden, n_outputs))
    sources = "+".join(dict.fromkeys(sampler.source_names))
    self._name: str = name or f"{sources}_{widths}".replace("/", "_")

  @property
  def source_names(self) -> tuple[str, ...]:
    """Names of the data sets, by the `source` of a sampled problem."""
    return self.sampler.source_names

  def sample(self, key: jax.Array) -> TaskParams:
    """Draws a problem."""
    return self.sampler.sample(key)

  def task_fn(self, cfg: TaskParams) -> MLPTask:
    """The task of one problem."""
    return MLPTask(self.mlp, self.sampler, cfg, self.probe, self._name, self.output)

  eval_task_fn = task_fn
