"""The rule itself, and its base model before any training.

Programs are compiled once a process for each architecture: theta and batches are arguments, so
that cells and rules share them.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.evaluation.methods import base
from unsup_rule.evaluation.methods.recent import Recent
from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.features import programs
from unsup_rule.rule import outputs
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.structures import Params
from unsup_rule.rule.theta import Sizes, Theta
from unsup_rule.tasks.fewshot import Episodes

_SHOWN_UNITS = 32  # whose receptive fields are kept
_KEPT_NUMBERS = 2**22  # in models that are kept for other readouts, at most


class _Model(NamedTuple):
  """A base model, and the processor seconds that it has taken since it was drawn."""

  params: Params
  seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
  """Trains the base model with the unsupervised rule.

  Attributes:
    theta: parameters of the rule.
    sizes: their sizes.
    schedule: how its changes are applied.
    trained: base models by step, which the other readouts of this theta share.
  """

  theta: Theta
  sizes: Sizes
  schedule: InnerSchedule
  trained: Recent[dict[int, _Model]] = dataclasses.field(default_factory=Recent)

  output: ClassVar[str] = "embedding"  # what is read of a base model, see `outputs`
  label = "the rule"
  about = "the learned unsupervised update, no labels"
  source = "Metz et al. 2019"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Applies the rule to every batch."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])
    made_for = (inputs.digest, mlp, setting.permute, setting.batch_size, setting.seed)

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      kept = mlp.n_parameters <= _KEPT_NUMBERS
      models = self.trained.get(made_for, index, dict)[0] if kept else {}
      train = self._trainer(mlp, setting, inputs, index, episodes.permutation)
      seconds = 0.0  # That the model of the step before has taken.
      for step in setting.steps:
        if step in models:
          borrowed = models[step].seconds - seconds
        else:
          models[step], there = train(models, step)
          borrowed = there - seconds
        params, seconds = models[step]
        features_DxExF = _features(mlp, params, episodes.x_DxExP, self.output)
        inside = {} if index or self.output != "embedding" else _inside(params, features_DxExF)
        layers = _layers(mlp, params, episodes.x_DxExP) if setting.layers else {}
        yield base.Snapshot(
          step, features_DxExF, inside=inside, layers=layers, borrowed_seconds=borrowed
        )

    return fit

  def _trainer(
    self, mlp: MLP, setting: Setting, inputs: Inputs, index: int, permutation: np.ndarray
  ) -> Callable[[dict[int, _Model], int], tuple[_Model, float]]:
    """Of one seed: (models by step, a later step) -> the model after it, and seconds of before."""
    init_key, train_key = base.seed_keys(setting, index)
    numbers_SxB = np.asarray(_numbers(train_key, setting, len(inputs.values_NxP)))

    def rows(numbers: np.ndarray) -> np.ndarray:
      x = inputs.values_NxP[numbers][..., permutation]
      return x.astype(np.float32) * np.float32(inputs.scale)

    def train(models: dict[int, _Model], step: int) -> tuple[_Model, float]:
      start = time.process_time()
      done = max((earlier for earlier in models if earlier < step), default=0)
      params, before = models.get(done) or (jax.tree.map(np.asarray, _initial(mlp, init_key)), 0.0)
      rule, batches = (self.sizes, self.theta, self.schedule), iter(numbers_SxB[done:step])
      params = programs.train(rule, mlp, params, done, rows, batches, lambda count: None)
      return _Model(params, before + time.process_time() - start), before

    return train

  def cost(self, setting: Setting) -> float:
    """Some forty times a gradient."""
    return 90.0 * setting.size * setting.steps[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class RuleLayers(Rule):
  """What the rule trains, read from all layers: a linear model may use what each one has."""

  output = "layers"
  label = "the rule, all layers"
  about = "the learned unsupervised update; features = inputs and all layers side by side"


@dataclasses.dataclass(frozen=True)
class Untrained:
  """The base model as drawn: the same weights that the rule starts from."""

  output: ClassVar[str] = "embedding"  # what is read of a base model, see `outputs`
  label = "random initialisation"
  about = "the untrained base model with a trained probe"
  source = "Metz et al. 2019"
  reference = False

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Measures step 0 alone."""
    mlp = setting.mlp(inputs.values_NxP.shape[1])

    def fit(index: int, episodes: Episodes) -> Iterator[base.Snapshot]:
      params = _initial(mlp, base.seed_keys(setting, index)[0])
      layers = _layers(mlp, params, episodes.x_DxExP) if setting.layers else {}
      features_DxExF = _features(mlp, params, episodes.x_DxExP, self.output)
      yield base.Snapshot(0, features_DxExF, layers=layers)

    return fit

  def cost(self, setting: Setting) -> float:
    """Nothing but probes."""
    return 0.0


@dataclasses.dataclass(frozen=True)
class UntrainedLayers(Untrained):
  """All layers of the base model as drawn."""

  output = "layers"
  label = "random initialisation, all layers"
  about = "the untrained base model; features = inputs and all layers side by side"
  source = "-"


_initial = jax.jit(MLP.init, static_argnums=0)


def _features(mlp: MLP, params: Params, x_DxExP: np.ndarray, output: str) -> np.ndarray:
  """Of each draw's examples, normalised by their own statistics."""
  return np.asarray(_read(mlp, params, x_DxExP, output))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _read(mlp: MLP, params: Params, x_DxExP: jax.Array, output: str) -> jax.Array:
  return jax.lax.map(lambda x_ExP: outputs.read(mlp, params, x_ExP, output), x_DxExP)


@functools.partial(jax.jit, static_argnums=0)
def _signals(mlp: MLP, params: Params, x_DxExP: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
  """z and x [D, E, units] of each layer, from the bottom."""

  def one(x_ExP: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    return [(layer.z, layer.x) for layer in mlp.apply(params, x_ExP).layers]

  return jax.lax.map(one, x_DxExP)


def _layers(mlp: MLP, params: Params, x_DxExP: np.ndarray) -> dict[str, np.ndarray]:
  """Features of every layer, before and after its nonlinearity."""
  found: dict[str, np.ndarray] = {}
  for number, (z, x) in enumerate(_signals(mlp, params, x_DxExP), start=1):
    found |= {f"{number} pre": np.asarray(z), f"{number}": np.asarray(x)}
  return found


def _numbers(key: jax.Array, setting: Setting, n_examples: int) -> jax.Array:
  """Which examples each step sees, int32 [S, B]: the draws of `base.training`."""
  return _drawn(key, jnp.arange(setting.steps[-1]), n_examples, setting.batch_size)


@functools.partial(jax.jit, static_argnums=3)
def _drawn(key: jax.Array, steps_S: jax.Array, n_examples: int, batch_size: int) -> jax.Array:
  def one(step: jax.Array) -> jax.Array:
    row_key, _ = jax.random.split(jax.random.fold_in(key, step))
    return jax.random.randint(row_key, (batch_size,), 0, n_examples)

  return jax.vmap(one)(steps_S)


def _inside(params: Params, features_DxExF: np.ndarray) -> dict[str, np.ndarray]:
  """What figures show of one model: bottom weights [P, units] and the embedding [E, F]."""
  embedding = features_DxExF.reshape(-1, features_DxExF.shape[-1])[: base.SHOWN_EXAMPLES]
  weights = np.asarray(params.layer(1).w[:, :_SHOWN_UNITS])
  return {"weights": weights, "embedding": embedding}
