"""The rule as a `LearnedOptimizer` of learned_optimization: labels, loss, gradient are not used."""

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import chex
import gin
import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from unsup_rule import compat  # noqa: F401  (first: makes the library importable)
from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.theta import checked_coefficients, init_theta, with_coefficients
from unsup_rule.rule import tuning
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.step import applied, as_gradient, check_fit, scheduled_change
from unsup_rule.rule.structures import Activations, Params
from unsup_rule.rule.theta import Sizes, Theta
from unsup_rule.rule.update import changes

from learned_optimization.learned_optimizers import base as lopt_base  # isort: skip
from learned_optimization.optimizers import base as opt_base  # isort: skip

T = TypeVar("T")
M = TypeVar("M")


@struct.dataclass
class RuleState:
  """State of the inner training: phi = {W, b, V}; the rule itself remembers nothing.

  `state` is always None: the activations that a Task hands on are used up in the step they arrive
  in.
  """

  params: Params
  state: Any
  iteration: jax.Array


@gin.configurable(module="unsup_rule")
class UnsupervisedRule(lopt_base.LearnedOptimizer):
  """Metz et al. 2019: a learned, unsupervised, neuron-local update for MLPs of any width and depth.

  `update` reads the batch's activations from `model_state`, where `MLPTask.loss_with_state` leaves
  them, and ignores `grad` and `loss`. Defaults are the paper's: 114,670 parameters.

  Args:
    output_size: width n_L of the embedding; theta is tied to it, all else is free.
    top_delta_size: channels of the top network.
    top_delta_layers: its convolutions after the two that mix units.
    compute_h_size: channels of the per-layer network.
    compute_h_layers: its blocks after the first.
    delta_dim: channels of the delta.
    num_grad_channels: channels of each low-rank readout.
    identical_updates: whether V_l receives the change of W_l.
    learning_rate: lr of the inner step, new = (1 - lr) old - lr change. It and the next two are
      not used with `inner_optimizer`. More on these six: `InnerSchedule`.
    decay_steps: steps after which lr has fallen to (1/2)^decay_power; None: never.
    decay_power: how fast it falls.
    hidden_bias: value towards which biases of hidden layers decay.
    embedding_bias: the same of the last layer; a large one makes the embedding linear.
    shuffle_inputs: show the rule its inputs in a random order.
    partners: number of other examples of the batch that units are shown beside each (eq. 4.20).
    redundancy: whether weights of units that correlate are driven apart (eq. 4.21).
    initial_coefficients: mixing coefficients that `init` gives to terms, by their keys in
      `unsup_rule.rule.terms`; 0.1 for those left out, as in the authors' program.
    gradient_decay: factor on the gradient that flows back from each inner step to the parameters
      before it; 1 for the exact gradient. Gradients of long episodes vary so much since small
      differences grow on the way; less than 1 gives up some of what early steps do for late ones.
    remat: "step" keeps only the inner states of a truncation and computes each step again in the
      backward pass, in a fraction of the memory and, since memory is the bottleneck, of the time;
      "none" keeps every intermediate value.
    task_batching: how several tasks are run side by side: "map" one after the other, "vmap" as one
      batch, "auto" on a CPU as many at once as are small enough together and elsewhere "vmap".
    inner_optimizer: takes the step in the rule's place: any `Optimizer` or `LearnedOptimizer`, to
      which old + change is handed as the gradient. So its own learning rate is what counts, the
      decay of the weights is part of the gradient (that of |old|^2 / 2), and SGD(lr) is the rule
      itself. A `LearnedOptimizer` is meta-trained along: theta is then {"rule": .., "step": ..}.
  """

  def __init__(
    self,
    output_size: int = 32,
    top_delta_size: int = 64,
    top_delta_layers: int = 2,
    compute_h_size: int = 64,
    compute_h_layers: int = 1,
    delta_dim: int = 32,
    num_grad_channels: int = 4,
    identical_updates: bool = True,
    learning_rate: float = 1e-4,
    decay_steps: float | None = None,
    decay_power: float = 2.0,
    hidden_bias: float = 0.0,
    embedding_bias: float = 0.0,
    shuffle_inputs: bool = False,
    partners: int = 0,
    redundancy: bool = False,
    initial_coefficients: Mapping[str, float] | None = None,
    gradient_decay: float = 1.0,
    remat: str = "step",
    task_batching: str = "auto",
    inner_optimizer: opt_base.Optimizer | lopt_base.LearnedOptimizer | None = None,
  ):
    tuning.check(remat, task_batching)
    self.sizes = Sizes(
      output_size=output_size,
      top_delta_size=top_delta_size,
      top_delta_layers=top_delta_layers,
      compute_h_size=compute_h_size,
      compute_h_layers=compute_h_layers,
      delta_dim=delta_dim,
      num_grad_channels=num_grad_channels,
      identical_updates=identical_updates,
      partners=partners,
      redundancy=redundancy,
    )
    self.schedule = InnerSchedule(
      learning_rate, decay_steps, decay_power, hidden_bias, embedding_bias, shuffle_inputs
    )
    check_inner_optimizer(inner_optimizer)
    self.initial_coefficients = checked_coefficients(initial_coefficients or {}, self.sizes)
    if not 0 <= gradient_decay <= 1:
      raise UnsupRuleError(
        f"UnsupervisedRule.gradient_decay is {gradient_decay}; give a number from 0 to 1"
      )
    self.gradient_decay = gradient_decay
    self.remat = remat
    self.task_batching = task_batching
    self.inner_optimizer = inner_optimizer

  @property
  def name(self) -> str:
    return "UnsupervisedRule"

  def init(self, key: jax.Array) -> Theta | dict[str, Any]:
    """Draws theta (initial values: docs/rule.md, section 2)."""
    theta = with_coefficients(init_theta(self.sizes, key), self.initial_coefficients)
    if isinstance(self.inner_optimizer, lopt_base.LearnedOptimizer):
      return {"rule": theta, "step": self.inner_optimizer.init(jax.random.fold_in(key, 1))}
    return theta

  def opt_fn(self, theta: Any, is_training: bool = False) -> opt_base.Optimizer:
    """The rule under one theta, as an Optimizer for the {W, b, V} of an MLP."""
    inner = self.inner_optimizer
    if isinstance(inner, lopt_base.LearnedOptimizer):
      inner = inner.opt_fn(theta["step"], is_training=is_training)
      theta = theta["rule"]
    rule = RuleOptimizer(
      self.sizes, theta, self.schedule, self.remat, self.task_batching, self.gradient_decay
    )
    return rule if inner is None else ComposedOptimizer(rule, inner)


class RuleOptimizer(opt_base.Optimizer):
  """phi_{t+1} = UnsupervisedUpdate(phi_t, x_t; theta), section 3 of the paper."""

  def __init__(
    self,
    sizes: Sizes,
    theta: Theta,
    schedule: InnerSchedule,
    remat: str = "step",
    task_batching: str = "auto",
    gradient_decay: float = 1.0,
  ):
    self.sizes = sizes
    # As one vector: the library vectorises over tasks what an update closes over, leaf by leaf.
    self._theta, self._unpacked = ravel_pytree(theta)
    self.schedule = schedule
    self.remat = remat
    self.task_batching = task_batching
    self.gradient_decay = gradient_decay

  @property
  def theta(self) -> Theta:
    """Parameters of the rule."""
    return self._unpacked(self._theta)

  def init(self, params, model_state=None, num_steps=None, key=None) -> RuleState:
    """The state before the first step; raises if the embedding does not fit theta."""
    check_fit(self.sizes, params)
    return RuleState(params=params, state=None, iteration=jnp.asarray(0, jnp.int32))

  def update(
    self,
    opt_state: RuleState,
    grad=None,
    loss=None,
    model_state: Activations | None = None,
    key=None,
    **kwargs,
  ) -> RuleState:
    """One step from the activations of a batch (`MLP.apply`) under the present parameters.

    Args:
      opt_state: the state before the step.
      grad: ignored.
      loss: ignored.
      model_state: activations, as `MLP.apply` returns them.
      key: ignored; the rule is deterministic.
      **kwargs: ignored; other optimizers of the library take more.
    """
    del grad, loss, key, kwargs
    opt_state, model_state = self.decayed(opt_state, model_state)
    change = self.change(opt_state.params, model_state, opt_state.iteration)
    params = applied(self.schedule, opt_state.params, change, opt_state.iteration)
    return RuleState(params=params, state=None, iteration=opt_state.iteration + 1)

  def decayed(self, opt_state: T, model_state: M) -> tuple[T, M]:
    """The same two; what flows back to them, and so to all steps before, counts less."""
    if self.gradient_decay == 1:
      return opt_state, model_state
    return with_decayed_gradient((opt_state, model_state), self.gradient_decay)

  def change(
    self, params: Params, model_state: Activations | None, step: jax.Array | int = 0
  ) -> Params:
    """The change that the activations of a batch ask for, a tree like `params`.

    Args:
      params: {W, b, V} of the base model.
      model_state: its activations, as `MLP.apply` returns them.
      step: number of the step, which the order of shuffled inputs depends on.
    """
    if not isinstance(model_state, Activations):
      raise UnsupRuleError(
        "the rule found no activations in model_state; train an MLPTask, or pass "
        "MLP.apply(params, x)"
      )
    check_arrays(params, model_state)

    def compute(theta: jax.Array, params: Params, activations: Activations) -> Params:
      return changes(self._unpacked(theta), self.sizes, params, activations)

    prepared = tuning.prepared(compute, self.remat, self.task_batching)
    compute_change = functools.partial(prepared, self._theta)
    return scheduled_change(self.schedule, compute_change, params, model_state, step)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def with_decayed_gradient(tree: T, decay: float) -> T:
  """The same arrays; the gradient that reaches them is multiplied by `decay`."""
  del decay
  return tree


def _forward(tree: T, decay: float) -> tuple[T, None]:
  del decay
  return tree, None


def _backward(decay: float, _: None, gradient: T) -> tuple[T]:
  def multiplied(g: jax.Array) -> jax.Array:
    return g if g.dtype == jax.dtypes.float0 else decay * g  # Whole numbers have none.

  return (jax.tree.map(multiplied, gradient),)


with_decayed_gradient.defvjp(_forward, _backward)


class ComposedOptimizer(opt_base.Optimizer):
  """Another optimizer that takes old + change, of the rule, for its gradient.

  Its state is the other's. The loss it is shown is always 0, since a task's may know labels.
  """

  def __init__(self, rule: RuleOptimizer, inner: opt_base.Optimizer):
    self.rule = rule
    self.inner = inner

  @property
  def name(self) -> str:
    return f"UnsupervisedRule_{self.inner.name}"

  def get_params(self, state: Any) -> Params:
    return self.inner.get_params(state)

  def get_state(self, state: Any) -> Any:
    return self.inner.get_state(state)

  def set_params(self, state: Any, params: Params) -> Any:
    return self.inner.set_params(state, params)

  def init(self, params, model_state=None, num_steps=None, key=None) -> Any:
    """The other optimizer's state; raises if the embedding does not fit theta."""
    check_fit(self.rule.sizes, params)
    return self.inner.init(params, None, num_steps=num_steps, key=key)

  def update(
    self,
    opt_state: Any,
    grad=None,
    loss=None,
    model_state: Activations | None = None,
    key=None,
    **kwargs,
  ) -> Any:
    """One step; the arguments are those of `RuleOptimizer.update`, `key` goes to the other."""
    del grad, loss, kwargs
    opt_state, model_state = self.rule.decayed(opt_state, model_state)
    params = self.get_params(opt_state)
    # Library optimizers count their steps; one that does not gets the same order always.
    change = self.rule.change(params, model_state, getattr(opt_state, "iteration", 0))
    gradient = as_gradient(params, change)
    return self.inner.update(opt_state, gradient, loss=jnp.zeros(()), model_state=None, key=key)


def check_inner_optimizer(given: object) -> None:
  """Raises if it is not an instance of an optimizer."""
  if not isinstance(given, (opt_base.Optimizer, lopt_base.LearnedOptimizer, type(None))):
    raise UnsupRuleError(
      f"UnsupervisedRule.inner_optimizer is {given!r}; give an instance of an Optimizer or "
      "LearnedOptimizer, in gin @LearnableAdam() with the brackets"
    )


def check_arrays(params: Params, activations: Activations) -> None:
  """Asserts ranks, shapes and types of what the library hands on."""
  chex.assert_rank(activations.x_0, 2)
  chex.assert_equal(len(activations.stacks), len(params.stacks))
  batch, below = activations.x_0.shape
  for weights, signals in zip(params.stacks, activations.stacks, strict=True):
    count, _, n = weights.w.shape
    chex.assert_shape([weights.w, weights.v], (count, below, n))
    chex.assert_shape(weights.b, (count, n))
    chex.assert_shape([signals.x, signals.z], (count, batch, n))
    below = n
  if activations.mask is not None:
    chex.assert_shape(activations.mask, (batch,))
  chex.assert_type(jax.tree.leaves((params, activations)), float)
