"""One step of the inner training, from a batch's activations (docs/rule.md, 4.6)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import mlp_of
from unsup_rule.rule.schedule import InnerSchedule, order_of_step
from unsup_rule.rule.structures import Activations, Params
from unsup_rule.rule.theta import Sizes, Theta
from unsup_rule.rule.update import changes


def step(
  sizes: Sizes,
  theta: Theta,
  schedule: InnerSchedule,
  params: Params,
  activations: Activations,
  t: jax.Array | int,
) -> Params:
  """The base model after one step of the rule.

  Args:
    sizes: of the rule.
    theta: its parameters.
    schedule: how its changes are applied.
    params: {W, b, V} of the base model.
    activations: of a batch, as `MLP.apply` returns them under `params`.
    t: number of the step, from 0.

  Raises:
    UnsupRuleError: the embedding is of another width than theta's, or the batch of one example.
  """
  return applied(schedule, params, change(sizes, theta, schedule, params, activations, t), t)


def change(
  sizes: Sizes,
  theta: Theta,
  schedule: InnerSchedule,
  params: Params,
  activations: Activations,
  t: jax.Array | int,
) -> Params:
  """The change that `step` applies; arguments and errors are the same."""
  check_fit(sizes, params)

  def compute(params: Params, activations: Activations) -> Params:
    return changes(theta, sizes, params, activations)

  return scheduled_change(schedule, compute, params, activations, t)


def scheduled_change(
  schedule: InnerSchedule,
  compute: Callable[[Params, Activations], Params],
  params: Params,
  activations: Activations,
  t: jax.Array | int,
) -> Params:
  """The change of step `t`: inputs in the order of that step, biases towards where they rest.

  Args:
    schedule: says which of the two is done.
    compute: the change by the rule (`update.changes`) under one theta.
    params: {W, b, V} of the base model.
    activations: of a batch.
    t: number of the step.
  """
  made_by = [(len(stack.w), stack.w.shape[-1]) for stack in params.stacks]
  if made_by != [(len(stack.x), stack.x.shape[-1]) for stack in activations.stacks]:
    raise UnsupRuleError(
      "activations and params are of two architectures; pass MLP.apply(params, x) of these params"
    )
  batch, n_inputs = activations.x_0.shape
  if batch < 2:
    raise UnsupRuleError(
      "a batch of one example has no batch statistics; give the rule 2 or more, better 32"
    )
  if not schedule.shuffle_inputs:
    change = compute(params, activations)
  else:
    order_N = order_of_step(t, n_inputs)
    change = compute(params.permuted(order_N), activations.permuted(order_N))
    change = change.permuted(jnp.argsort(order_N))
  return schedule.with_rest(change, activations.slope)


def applied(schedule: InnerSchedule, params: Params, change: Params, t: jax.Array | int) -> Params:
  """(1 - lr_t) phi - lr_t change (eq. 4.17), in the precision of phi."""
  lr = schedule.rate(t)

  def new(old: jax.Array, c: jax.Array) -> jax.Array:
    step = jnp.asarray(lr, c.dtype) * c
    return old * jnp.asarray(1 - lr, old.dtype) - step.astype(old.dtype)

  return jax.tree.map(new, params, change)


def as_gradient(params: Params, change: Params) -> Params:
  """old + change, in the precision of the old: along it gradient descent is the rule (eq. 4.17)."""
  return jax.tree.map(lambda old, c: old + c.astype(old.dtype), params, change)


def check_fit(sizes: Sizes, params: Params) -> None:
  """Raises if the embedding's width is not theta's."""
  n_outputs = mlp_of(params).n_outputs
  if n_outputs != sizes.output_size:
    raise UnsupRuleError(
      f"the embedding has {n_outputs} units but this theta was made for {sizes.output_size}; "
      f"use n_outputs={sizes.output_size} (any input size, width and depth will do)"
    )
