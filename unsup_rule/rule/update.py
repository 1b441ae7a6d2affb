"""One application of the rule: changes of W, b, V from a batch (docs/rule.md, section 4)."""

import itertools

import jax
import jax.numpy as jnp

from unsup_rule.rule.capture import is_recording, record, scope
from unsup_rule.rule.layers import linear
from unsup_rule.rule.mlp import MLP, Activations, Params, batch_mean, embedding, run_names
from unsup_rule.rule.networks import (
  back_project,
  layer_delta,
  layer_network,
  top_delta,
  weight_statistics,
)
from unsup_rule.rule.terms import TERMS, Connection
from unsup_rule.rule.theta import COEFFICIENTS, Sizes, Theta

NORMALISE_EPSILON = 1.0
# Layers of a run up to which they are unrolled: a tenth faster than a scan, which has to store what
# it keeps for the way back; with more of them compilation would take longer.
UNROLLED = 4
# Entries of a run's matrices up to which all are changed at once. That is no faster than one by one
# but compiled once; each entry takes some 100 bytes then, for twelve terms.
AT_ONCE = 2**20


def column_normalised(a: jax.Array) -> jax.Array:
  """4.5 norm(a) = a / sqrt(1 + mean over rows of a^2), per column: [..., M, N]."""
  return a * jax.lax.rsqrt(NORMALISE_EPSILON + jnp.mean(jnp.square(a), axis=-2, keepdims=True))


def weight_change(connection: Connection) -> jax.Array:
  """4.5: the twelve terms merged into the change of one matrix [M, N]."""
  coefficients = connection.theta[f"{connection.direction}{COEFFICIENTS}"]
  w = connection.w
  before_TxMxN = jnp.stack([term(connection) for term in TERMS.values()])
  after_TxMxN = column_normalised(before_TxMxN)
  for i, key in enumerate(TERMS):
    record(f"terms_before/{connection.direction}/{key}", lambda i=i: before_TxMxN[i])
    record(f"terms_after/{connection.direction}/{key}", lambda i=i: after_TxMxN[i])
  # Not tensordot, whose gradient transposes all terms.
  g = (coefficients["w"].T @ after_TxMxN.reshape(len(TERMS), -1)).reshape(w.shape)
  g = (g + coefficients["b"][0]) / len(TERMS)
  g = g - w * jax.nn.relu(jnp.mean(g * w))
  g = column_normalised(g / jnp.sqrt(jnp.float32(len(TERMS))))
  return g - w / 7


def bias_change(theta: Theta, h_CxBxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """4.6: the change of a layer's biases [N]."""
  c_N = batch_mean(linear(theta, "bias_readout", h_CxBxN)[0], mask_B)[0]
  c_N = c_N + jax.nn.relu(-jnp.mean(c_N))
  return c_N * jax.lax.rsqrt(0.5 + jnp.mean(jnp.square(c_N)))


def neighbour_statistics(mlp: MLP, params: Params) -> list[jax.Array]:
  """4.2 (b): [R, 8, N] a run, the input layer first ([1, 8, n_0]): W_bot's columns, W_top's rows.

  At both ends of the network only one matrix exists and its four statistics are used twice.
  """
  below = [weight_statistics(params[name]["w"], axis=-2) for name in run_names(mlp)]
  above = [weight_statistics(params[name]["w"], axis=-1) for name in run_names(mlp)]
  above.append(below[-1][-1:])
  both = [jnp.concatenate([above[0][:1]] * 2, axis=-2)]
  for i, columns in enumerate(below):
    rows = joined(above[i][1:], above[i + 1][:1])
    both.append(jnp.concatenate([columns, rows], axis=-2))
  return both


def joined(*parts: jax.Array) -> jax.Array:
  """Layers stacked first, one after the other; runs of one leave an empty side of another width."""
  return jnp.concatenate([part for part in parts if part.shape[0]], axis=0)


def each_layer(function, carry, stacked, first: int, count: int, reverse: bool = False):
  """Applies `function` to layers first, first + 1, ... of a run; a tape sees them one by one."""
  if not is_recording() and count > UNROLLED:
    return jax.lax.scan(function, carry, stacked, reverse=reverse)
  outs = {}
  for i in reversed(range(count)) if reverse else range(count):
    with scope(f"l{first + i}"):
      carry, outs[i] = function(carry, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
  return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(outs[i] for i in range(count)))


def all_layers(function, stacked, first: int, count: int):
  """Applies `function` to all layers of a run, at once where their matrices are not too large."""
  if count > 1 and stacked["w"].size <= AT_ONCE and not is_recording():
    return jax.vmap(function)(stacked)
  return each_layer(lambda _, layer: (None, function(layer)), None, stacked, first, count)[1]


def hidden_states(
  theta: Theta, sizes: Sizes, mlp: MLP, params: Params, activations: Activations
) -> tuple[list[jax.Array], list[jax.Array]]:
  """4.1 to 4.3 from the top down: h_l and x_l of every layer.

  Returns:
    h and x, each a list with one array a run, the input layer first: [R, C, B, N] and [R, B, N].
  """
  mask_B = activations.get("mask")
  statistics = neighbour_statistics(mlp, params)
  names = run_names(mlp)

  def layer(carry, inputs):
    d_DxBxN, _ = carry
    h_CxBxN = layer_network(theta, sizes, inputs, d_DxBxN, mask_B)
    delta_DxBxN = layer_delta(theta, d_DxBxN, inputs["z"], h_CxBxN)
    record("d_in", lambda: d_DxBxN)
    record("h", lambda: h_CxBxN)
    record("delta", lambda: delta_DxBxN)
    d_DxBxM = back_project(delta_DxBxN, inputs["v"]) if "v" in inputs else d_DxBxN
    record("d_out", lambda: d_DxBxM)
    return (d_DxBxM, delta_DxBxN), h_CxBxN

  d = top_delta(theta, sizes, embedding(mlp, activations), mask_B)
  first = mlp.n_layers + 1
  h, x = [], [activations[name]["x"] for name in names]
  for runs in reversed(mlp.bands):
    inputs = jax.tree.map(
      joined,
      *(
        {
          "x": activations[names[i]]["x"],
          "z": activations[names[i]]["z"],
          "b": params[names[i]]["b"],
          "statistics": statistics[i + 1],
        }
        for i in runs
      ),
    )
    matrices = [params[names[i]]["v"] for i in runs]
    lowest = matrices[0][0]
    if sum(map(len, matrices)) > 1:
      # The lowest layer's matrix has a shape of its own: within the scan it projects to nothing.
      inputs["v"] = joined(jnp.zeros_like(matrices[-1][:1]), matrices[0][1:], *matrices[1:])
    count = len(inputs["x"])
    first -= count
    (_, delta_DxBxN), h_band = each_layer(
      layer, (d, jnp.zeros_like(d)), inputs, first, count, reverse=True
    )
    with scope(f"l{first}"):
      d = back_project(delta_DxBxN, lowest)
      record("d_out", lambda d=d: d)
    ends = itertools.accumulate((mlp.runs[i].count for i in runs), initial=0)
    h[:0] = [h_band[start:end] for start, end in itertools.pairwise(ends)]
  x_0 = activations["x0"]
  bottom = {"x": x_0, "z": x_0, "b": jnp.zeros_like(x_0[0]), "statistics": statistics[0][0]}
  with scope("l0"):
    h_0 = layer_network(theta, sizes, bottom, d, mask_B)
    record("d_in", lambda: d)
    record("h", lambda: h_0)
    record("delta", lambda: layer_delta(theta, d, x_0, h_0))
  return [h_0[None], *h], [x_0[None], *x]


def changes(
  theta: Theta, sizes: Sizes, mlp: MLP, params: Params, activations: Activations
) -> Params:
  """4.4 to 4.6: the change of every parameter; the step is new = (1 - lr) old - lr change.

  Args:
    theta: parameters of the rule, under the names of `specs`.
    sizes: their sizes.
    mlp: architecture of the base model.
    params: its state {W, b, V}.
    activations: of the batch, from `mlp.apply`.

  Returns:
    A tree like `params`.
  """
  mask_B = activations.get("mask")
  h, x = hidden_states(theta, sizes, mlp, params, activations)

  def layer(inputs):
    def change(direction, matrix):
      ends = {key: inputs[key] for key in ("h_upper", "h_lower", "x_upper", "x_lower")}
      return weight_change(Connection(theta, direction, matrix, mask_B=mask_B, **ends))

    change_w = change("forward", inputs["w"])
    change_v = change_w if sizes.identical_updates else change("backward", inputs["v"])
    change_b = bias_change(theta, inputs["h_upper"], mask_B)
    record("change_w/forward", lambda: change_w)
    record("change_w/backward", lambda: change_v)
    record("change_b", lambda: change_b)
    return {"w": change_w, "b": change_b, "v": change_v}

  out, first = {}, 1
  for i, name in enumerate(run_names(mlp)):
    inputs = {
      **params[name],
      "h_upper": h[i + 1],
      "h_lower": joined(h[i][-1:], h[i + 1][:-1]),
      "x_upper": x[i + 1],
      "x_lower": joined(x[i][-1:], x[i + 1][:-1]),
    }
    count = mlp.runs[i].count
    out[name] = all_layers(layer, inputs, first, count)
    first += count
  return out
