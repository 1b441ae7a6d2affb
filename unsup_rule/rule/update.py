"""One application of the rule: changes of W, b, V from a batch (docs/rule.md, section 4)."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from unsup_rule.rule import tuning
from unsup_rule.rule.capture import capture, is_capturing, scope
from unsup_rule.rule.layers import linear
from unsup_rule.rule.mlp import batch_mean
from unsup_rule.rule.networks import (
  Units,
  back_project,
  layer_delta,
  layer_network,
  top_delta,
  weight_statistics,
)
from unsup_rule.rule.structures import Activations, Params, Weights
from unsup_rule.rule.terms import TERMS, Connection, terms
from unsup_rule.rule.theta import COEFFICIENTS, Sizes, Theta
from unsup_rule.rule.tuning.products import mixture

NORMALISE_EPSILON = 1.0
Carry = TypeVar("Carry")
Stacked = TypeVar("Stacked", bound=NamedTuple)
Out = TypeVar("Out")


def column_normalised(a: jax.Array) -> jax.Array:
  """4.5 norm(a) = a / sqrt(1 + mean over rows of a^2), per column: [..., M, N]."""
  return a * jax.lax.rsqrt(NORMALISE_EPSILON + jnp.mean(jnp.square(a), axis=-2, keepdims=True))


def weight_change(connection: Connection) -> jax.Array:
  """4.5: the terms merged into the change of one matrix [M, N]."""
  coefficients = connection.theta[f"{connection.direction}{COEFFICIENTS}"]
  w = connection.w
  merged = terms(len(coefficients["w"]))
  before_TxMxN = jnp.stack([term(connection) for term in merged.values()])
  after_TxMxN = column_normalised(before_TxMxN)
  for i, key in enumerate(merged):
    capture(f"terms_before/{connection.direction}/{key}", lambda i=i: before_TxMxN[i])
    capture(f"terms_after/{connection.direction}/{key}", lambda i=i: after_TxMxN[i])
  g = (mixture(coefficients["w"][:, 0], after_TxMxN) + coefficients["b"][0]) / len(TERMS)
  g = g - w * jax.nn.relu(jnp.mean(g * w))
  g = column_normalised(g / jnp.sqrt(jnp.float32(len(TERMS))))
  return g - w / 7


def bias_change(theta: Theta, h_CxBxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """4.6: the change of a layer's biases [N]."""
  c_N = batch_mean(linear(theta, "bias_readout", h_CxBxN)[0], mask_B)[0]
  c_N = c_N + jax.nn.relu(-jnp.mean(c_N))
  return c_N * jax.lax.rsqrt(0.5 + jnp.mean(jnp.square(c_N)))


def neighbour_statistics(params: Params) -> list[jax.Array]:
  """4.2 (b): [R, 8, N] a stack, the input layer first ([1, 8, n_0]): W_bot's columns, W_top's rows.

  At both ends of the network only one matrix exists and its four statistics are used twice.
  """
  below = [weight_statistics(stack.w, axis=-2) for stack in params.stacks]
  above = [weight_statistics(stack.w, axis=-1) for stack in params.stacks]
  above.append(below[-1][-1:])
  both = [jnp.concatenate([above[0][:1]] * 2, axis=-2)]
  for i, columns in enumerate(below):
    rows = joined(above[i][1:], above[i + 1][:1])
    both.append(jnp.concatenate([columns, rows], axis=-2))
  return both


def joined(*parts: jax.Array) -> jax.Array:
  """Stacked layers, one after the other; stacks of one leave an empty side of another width."""
  return jnp.concatenate([part for part in parts if part.shape[0]], axis=0)


def each_layer(
  function: Callable[[Carry, Stacked], tuple[Carry, Out]],
  carry: Carry,
  stacked: Stacked,
  first: int,
  reverse: bool = False,
) -> tuple[Carry, Out]:
  """Applies `function` to stacked layers first, first + 1, ...; a capture sees them one by one."""
  count = len(jax.tree.leaves(stacked)[0])
  if not is_capturing() and count > tuning.UNROLLED:
    return jax.lax.scan(function, carry, stacked, reverse=reverse)
  outs = {}
  for i in reversed(range(count)) if reverse else range(count):
    with scope(f"l{first + i}"):
      carry, outs[i] = function(carry, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
  return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(outs[i] for i in range(count)))


class WidthGroup(NamedTuple):
  """What the way down reads of R neighbouring layers of one width.

  Attributes:
    units: of each layer, stacked.
    v_below: the matrices [R, N, N] to the next lower layer of the group, the lowest of them unused;
      None if there is one layer alone.
  """

  units: Units
  v_below: jax.Array | None


def width_group(
  stacks: Sequence[int], params: Params, activations: Activations, statistics: list[jax.Array]
) -> WidthGroup:
  """The layers of these neighbouring stacks together."""
  each = (
    Units(activations.stacks[i].x, activations.stacks[i].z, params.stacks[i].b, statistics[i + 1])
    for i in stacks
  )
  units = jax.tree.map(joined, *each)
  if len(units.x) == 1:
    return WidthGroup(units, None)
  matrices = [params.stacks[i].v for i in stacks]
  # The lowest layer's matrix has a shape of its own: within a scan it projects to nothing.
  zero = jnp.zeros_like(matrices[-1][:1])
  return WidthGroup(units, joined(zero, matrices[0][1:], *matrices[1:]))


class Deltas(NamedTuple):
  """What goes down from layer to layer, in D channels.

  Attributes:
    d: that arrives at the next lower layer.
    delta: of the layer just left, from which d comes.
  """

  d: jax.Array
  delta: jax.Array


def layer_states(
  theta: Theta, sizes: Sizes, mask_B: jax.Array | None, above: Deltas, layer: WidthGroup
) -> tuple[Deltas, jax.Array]:
  """4.2 and 4.3 at one layer: what goes on down, and h [C, B, N].

  Args:
    theta: parameters of the rule.
    sizes: their sizes.
    mask_B: 1 for examples that are there, or None.
    above: from the layer above.
    layer: without the axis R.
  """
  d_DxBxN = above.d
  h_CxBxN = layer_network(theta, sizes, layer.units, d_DxBxN, mask_B)
  delta_DxBxN = layer_delta(theta, d_DxBxN, layer.units.z, h_CxBxN)
  capture("d_in", lambda: d_DxBxN)
  capture("h", lambda: h_CxBxN)
  capture("delta", lambda: delta_DxBxN)
  v_MxN = layer.v_below
  d_DxBxM = d_DxBxN if v_MxN is None else back_project(delta_DxBxN, v_MxN)
  capture("d_out", lambda: d_DxBxM)
  return Deltas(d_DxBxM, delta_DxBxN), h_CxBxN


def hidden_states(
  theta: Theta, sizes: Sizes, params: Params, activations: Activations
) -> tuple[list[jax.Array], list[jax.Array]]:
  """4.1 to 4.3 from the top down: h_l and x_l of every layer.

  Returns:
    h and x, each a list with one array a stack, the input layer first: [R, C, B, N] and [R, B, N].
  """
  statistics = neighbour_statistics(params)
  layer = functools.partial(layer_states, theta, sizes, activations.mask)
  d = top_delta(theta, sizes, activations.embedding, activations.mask)
  counts = [len(stack.w) for stack in params.stacks]
  first = sum(counts) + 1
  h: list[jax.Array] = []
  for stacks in reversed(width_groups(params)):
    first -= sum(counts[i] for i in stacks)
    group = width_group(stacks, params, activations, statistics)
    above = Deltas(d, jnp.zeros_like(d))
    lowest, h_RxCxBxN = each_layer(layer, above, group, first, reverse=True)
    with scope(f"l{first}"):
      d = back_project(lowest.delta, params.stacks[stacks[0]].v[0])
      capture("d_out", lambda d=d: d)
    ends = itertools.accumulate((counts[i] for i in stacks), initial=0)
    h[:0] = [h_RxCxBxN[start:end] for start, end in itertools.pairwise(ends)]
  h_0 = input_layer(theta, sizes, activations, statistics[0][0], d)
  return [h_0[None], *h], [activations.x_0[None], *(stack.x for stack in activations.stacks)]


def width_groups(params: Params) -> list[list[int]]:
  """Indices of the stacks, grouped by the width n: what happens in units is the same in each."""
  groups = itertools.groupby(range(len(params.stacks)), lambda i: params.stacks[i].w.shape[-1])
  return [list(group) for _, group in groups]


def input_layer(
  theta: Theta, sizes: Sizes, activations: Activations, statistics: jax.Array, d: jax.Array
) -> jax.Array:
  """4.2 at the inputs, which have no biases and no z: h_0 [C, B, n_0]."""
  x_0 = activations.x_0
  units = Units(x_0, x_0, jnp.zeros_like(x_0[0]), statistics)
  with scope("l0"):
    h_0 = layer_network(theta, sizes, units, d, activations.mask)
    capture("d_in", lambda: d)
    capture("h", lambda: h_0)
    capture("delta", lambda: layer_delta(theta, d, x_0, h_0))
  return h_0


class LayerEnds(NamedTuple):
  """What the change of a layer is computed from: its weights, and both of its ends."""

  weights: Weights
  h_upper: jax.Array
  h_lower: jax.Array
  x_upper: jax.Array
  x_lower: jax.Array


def layer_change(theta: Theta, sizes: Sizes, mask_B: jax.Array | None, layer: LayerEnds) -> Weights:
  """4.4 to 4.6: the change of W_l, b_l and V_l."""

  def change(direction: str, matrix: jax.Array) -> jax.Array:
    ends = (layer.h_upper, layer.h_lower, layer.x_upper, layer.x_lower)
    return weight_change(Connection(theta, direction, matrix, *ends, mask_B))

  change_w = change("forward", layer.weights.w)
  change_v = change_w if sizes.identical_updates else change("backward", layer.weights.v)
  change_b = bias_change(theta, layer.h_upper, mask_B)
  capture("change_w/forward", lambda: change_w)
  capture("change_w/backward", lambda: change_v)
  capture("change_b", lambda: change_b)
  return Weights(w=change_w, b=change_b, v=change_v)


def changes(theta: Theta, sizes: Sizes, params: Params, activations: Activations) -> Params:
  """4.4 to 4.6: the change of every parameter; the step is new = (1 - lr) old - lr change.

  Args:
    theta: parameters of the rule, under the names of `specs`.
    sizes: their sizes.
    params: {W, b, V} of the base model.
    activations: of a batch, from `MLP.apply`.
  """
  h, x = hidden_states(theta, sizes, params, activations)
  layer = functools.partial(layer_change, theta, sizes, activations.mask)
  out, first = [], 1
  for i, weights in enumerate(params.stacks):
    ends = LayerEnds(
      weights,
      h_upper=h[i + 1],
      h_lower=joined(h[i][-1:], h[i + 1][:-1]),
      x_upper=x[i + 1],
      x_lower=joined(x[i][-1:], x[i + 1][:-1]),
    )
    out.append(all_layers(layer, ends, first))
    first += len(weights.w)
  return Params(tuple(out))


def all_layers(function: Callable[[LayerEnds], Weights], stacked: LayerEnds, first: int) -> Weights:
  """Applies `function` to all layers of a stack, at once where their matrices are not too large."""
  w_RxMxN = stacked.weights.w
  if len(w_RxMxN) > 1 and w_RxMxN.size <= tuning.CHANGED_AT_ONCE and not is_capturing():
    return jax.vmap(function)(stacked)
  return each_layer(lambda _, layer: (None, function(layer)), None, stacked, first)[1]
