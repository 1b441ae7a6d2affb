"""What hand-made local rules have in common.

Shape legend: R stacked layers of one shape, B examples, M units below, N units of a layer.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from unsup_rule import compat  # noqa: F401  (first: makes the library importable)
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.structures import Activations, Params, Signals, Weights

from learned_optimization.optimizers import base as opt_base  # isort: skip


class LayerBatch(NamedTuple):
  """What a rule may use of a batch in one layer.

  Attributes:
    below_BxM: outputs of the layer below, or the inputs.
    z_BxN: normalised, offset values of the layer.
    x_BxN: its outputs.
    weight_B: 1 / B, or 0 for examples that are missing; sums to 1.
  """

  below_BxM: jax.Array
  z_BxN: jax.Array
  x_BxN: jax.Array
  weight_B: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class LocalRule(opt_base.Optimizer):
  """An update of each layer by what is at hand in that layer; subclasses say which.

  As with the learned rule, `update` reads the activations that `MLPTask` leaves in `model_state`,
  or `MLP.apply` returns, and ignores gradient and loss. V is left as it is, and so is b unless a
  subclass changes it. All layers learn at the same time.

  Attributes:
    learning_rate: of `inner_optimizer`, if none is given.
    inner_optimizer: takes the step, with minus the change for its gradient; by default plain
      descent. Its state is the rule's.
  """

  learning_rate: float = 0.1
  inner_optimizer: opt_base.Optimizer | None = None

  label: ClassVar[str] = "local rule"
  source: ClassVar[str] = ""
  local_in: ClassVar[str] = ""  # what a synapse must know, in half a sentence

  @property
  def name(self) -> str:
    return f"{type(self).__name__}_{self.inner.name}"

  @property
  def inner(self) -> opt_base.Optimizer:
    """What takes the step."""
    return self.inner_optimizer or opt_base.SGD(self.learning_rate)

  def layer_change(self, weights: Weights, layer: LayerBatch, key: jax.Array) -> Weights:
    """The change of one layer that a batch asks for, to be added after scaling.

    Args:
      weights: w [M, N], b [N] and v [M, N].
      layer: what the batch made of them.
      key: for rules that draw.
    """
    raise NotImplementedError

  def change(self, params: Params, model_state: Activations | None, key: jax.Array) -> Params:
    """The change of all layers, a tree like `params`."""
    activations = checked(model_state)
    below, stacks = activations.x_0, []
    for index, (weights, signals) in enumerate(zip(params.stacks, activations.stacks, strict=True)):
      below_RxBxM = inputs_of(signals, below)
      keys_R = jax.random.split(jax.random.fold_in(key, index), len(signals.x))
      weight_RxB = jnp.tile(example_weights(activations), (len(signals.x), 1))
      layers = LayerBatch(below_RxBxM, signals.z, signals.x, weight_RxB)
      stacks.append(jax.vmap(self.layer_change)(weights, layers, keys_R))
      below = signals.x[-1]
    return Params(tuple(stacks))

  def get_params(self, state: opt_base.OptState) -> Params:
    return self.inner.get_params(state)

  def get_state(self, state: opt_base.OptState) -> opt_base.OptState:
    return self.inner.get_state(state)

  def set_params(self, state: opt_base.OptState, params: Params) -> opt_base.OptState:
    return self.inner.set_params(state, params)

  def init(self, params, model_state=None, num_steps=None, key=None) -> opt_base.OptState:
    """The inner optimizer's state."""
    return self.inner.init(params, None, num_steps=num_steps, key=key)

  def update(
    self,
    opt_state: opt_base.OptState,
    grad=None,
    loss=None,
    model_state: Activations | None = None,
    key=None,
    **kwargs,
  ) -> opt_base.OptState:
    """One step from the activations of a batch; without a key, rules draw by the step's number."""
    del grad, loss, kwargs
    params = self.get_params(opt_state)
    if key is None:
      key = jax.random.fold_in(jax.random.PRNGKey(0), getattr(opt_state, "iteration", 0))
    gradient = jax.tree.map(jnp.negative, self.change(params, model_state, key))
    return self.inner.update(opt_state, gradient, loss=jnp.zeros(()), model_state=None, key=key)


def checked(model_state: Activations | None) -> Activations:
  """Raises unless these are activations."""
  if not isinstance(model_state, Activations):
    raise UnsupRuleError(
      "the local rule found no activations in model_state; train an MLPTask, or pass "
      "MLP.apply(params, x)"
    )
  return model_state


def inputs_of(signals: Signals, below_BxM: jax.Array) -> jax.Array:
  """What each layer of a stack reads, [R, B, M], where the lowest reads `below_BxM`."""
  if len(signals.x) == 1:
    return below_BxM[None]
  return jnp.concatenate([below_BxM[None], signals.x[:-1]])


def example_weights(activations: Activations) -> jax.Array:
  """1 / B for the examples that are there and 0 for the others, [B]."""
  if activations.mask is None:
    return jnp.full(len(activations.x_0), 1 / len(activations.x_0))
  return activations.mask / jnp.maximum(jnp.sum(activations.mask), 1)


def of_w(weights: Weights, w_MxN: jax.Array) -> Weights:
  """A change of W alone."""
  return Weights(w_MxN, jnp.zeros_like(weights.b), jnp.zeros_like(weights.v))
