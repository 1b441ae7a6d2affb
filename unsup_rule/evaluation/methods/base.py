"""The interface of the rule and of every baseline, and training of one seed's model.

A method is prepared for a cell, and then fitted once a seed:

  fit = method.prepare(setting, inputs)
  for snapshot in fit(index, episodes): ...

It may train on `inputs`, which hold no labels, and on the labelled half of each draw. Only a
`Transductive` method is handed the inputs that it will be tested on.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.evaluation.setting import Inputs, Setting
from unsup_rule.rule.structures import Params
from unsup_rule.tasks.fewshot import Episodes


class Snapshot(NamedTuple):
  """Features of the drawn examples after some training.

  Attributes:
    step: training steps done.
    features_DxExF: of every example of every draw.
    predictions_DxK: classes of the query half as the method itself predicts them, or None.
    objective: mean loss of the method on the drawn inputs, or None if it has none.
    inside: arrays for figures, by name; empty for most.
    layers: features [D, E, units] of each layer of the base model, by name, if the setting asks for
      them: "1 pre" before the nonlinearity of the first layer, "1" after it.
    borrowed_seconds: processor time that another cell of this process has spent on the model.
  """

  step: int
  features_DxExF: np.ndarray
  predictions_DxK: np.ndarray | None = None
  objective: float | None = None
  inside: dict[str, np.ndarray] = {}  # noqa: RUF012  (a tuple's default, never changed)
  layers: dict[str, np.ndarray] = {}  # noqa: RUF012
  borrowed_seconds: float = 0.0


SHOWN_EXAMPLES = 1000  # drawn examples whose embedding figures show

Fit = Callable[[int, Episodes], Iterator[Snapshot]]


class Method(Protocol):
  """The rule, or a baseline."""

  @property
  def label(self) -> str:
    """Name for people."""
    ...

  @property
  def about(self) -> str:
    """Half a sentence for the report."""
    ...

  @property
  def source(self) -> str:
    """Where it was published: authors and year."""
    ...

  @property
  def reference(self) -> bool:
    """Whether it sees what the others do not: inputs it is tested on, or all train labels."""
    ...

  def prepare(self, setting: Setting, inputs: Inputs) -> Fit:
    """Builds what all seeds share; returns the function that fits one seed."""
    ...

  def cost(self, setting: Setting) -> float:
    """Rough milliseconds of one seed on one core of about 2020, beside compilation and probes."""
    ...


@runtime_checkable
class Transductive(Method, Protocol):
  """A method that is handed the test split's inputs, without labels: always a `reference`."""

  def prepare_with_test(self, setting: Setting, inputs: Inputs, test_inputs: Inputs) -> Fit:
    """As `prepare`, knowing all inputs that query examples are drawn from."""
    ...


def prepared(method: Method, setting: Setting, inputs: Inputs, test_inputs: Inputs) -> Fit:
  """Hands `test_inputs` to transductive methods and to no others."""
  if isinstance(method, Transductive):
    return method.prepare_with_test(setting, inputs, test_inputs)
  return method.prepare(setting, inputs)


S = TypeVar("S")  # of a model in training


@dataclasses.dataclass(frozen=True, eq=False)
class Learner(Generic[S]):
  """How one model is trained without labels.

  Attributes:
    init: (key, permutation [P]) -> state.
    step: (state, key, x_BxP) -> state.
    embed: (state, x_ExP) -> features [E, F].
    objective: (state, key, x_ExP) -> loss, or None.
    inside: (state, x_ExP) -> arrays for figures, or None.
  """

  init: Callable[[jax.Array, jax.Array], S]
  step: Callable[[S, jax.Array, jax.Array], S]
  embed: Callable[[S, jax.Array], jax.Array]
  objective: Callable[[S, jax.Array, jax.Array], jax.Array] | None = None
  inside: Callable[[S, jax.Array], dict[str, jax.Array]] | None = None


def seed_keys(setting: Setting, index: int) -> tuple[jax.Array, jax.Array]:
  """Keys for initial weights and for training, the same for every method."""
  init_key, train_key = jax.random.split(
    jax.random.fold_in(jax.random.PRNGKey(setting.seed), index)
  )
  return init_key, train_key


def forward_only(params: Params) -> Params:
  """The base model without V, which gradients do not reach and an optimizer would carry along."""
  return Params(tuple(stack._replace(v=stack.v[:, :0]) for stack in params.stacks))


def training(learner: Learner, setting: Setting, inputs: Inputs) -> Fit:
  """Fits `learner` on random batches of `inputs`; yields a snapshot at each of `setting.steps`."""
  values_NxP = jnp.asarray(inputs.values_NxP)

  @jax.jit
  def advance(state, values_NxP, permutation, key, start, stop):
    def body(i, state):
      row_key, step_key = jax.random.split(jax.random.fold_in(key, i))
      rows_B = jax.random.randint(row_key, (setting.batch_size,), 0, len(values_NxP))
      x_BxP = values_NxP[rows_B].astype(jnp.float32) * inputs.scale
      return learner.step(state, step_key, x_BxP[:, permutation])

    return jax.lax.fori_loop(start, stop, body, state)

  @jax.jit
  def measure(state, key, x_DxExP):
    def one(x_ExP):
      objective = None if learner.objective is None else learner.objective(state, key, x_ExP)
      return learner.embed(state, x_ExP), objective

    return jax.lax.map(one, x_DxExP)

  def fit(index: int, episodes: Episodes) -> Iterator[Snapshot]:
    init_key, train_key = seed_keys(setting, index)
    x_DxExP, permutation = jnp.asarray(episodes.x_DxExP), jnp.asarray(episodes.permutation)
    state, done = learner.init(init_key, permutation), 0
    for step in setting.steps:
      state = advance(state, values_NxP, permutation, train_key, done, step)
      features, objective = measure(state, init_key, x_DxExP)
      loss = None if objective is None else float(jnp.mean(objective))
      inside = {}
      if learner.inside is not None and index == 0:
        x_NxP = x_DxExP.reshape(-1, x_DxExP.shape[-1])[:SHOWN_EXAMPLES]
        inside = {name: np.asarray(a) for name, a in learner.inside(state, x_NxP).items()}
      yield Snapshot(step, np.asarray(features), objective=loss, inside=inside)
      done = step

  return fit
