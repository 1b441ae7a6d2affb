"""The base model: an MLP with batch normalisation, and what the rule trains (docs/rule.md, 3).

Shape legend: B examples, M units below, N units of a layer, R consecutive layers of equal shape.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from unsup_rule import prng
from unsup_rule.errors import UnsupRuleError

Params = dict[str, dict[str, jax.Array]]
Activations = dict[str, Any]

EPSILON = 1e-6  # under the root of the base model's batch normalisation
W_STDDEV = 0.01  # of the truncated normal that W and V are drawn from
B_STDDEV = 0.1
FAR = 100.0  # where a nonlinearity is linear or saturated

NONLINEARITIES = {
  "relu": jax.nn.relu,
  "leaky_relu": jax.nn.leaky_relu,
  "elu": jax.nn.elu,
  "softplus": jax.nn.softplus,
  "swish": jax.nn.swish,
  "tanh": jnp.tanh,
  "sigmoid": jax.nn.sigmoid,
  "step": lambda z: (z > 0).astype(z.dtype),
}


@dataclasses.dataclass(frozen=True)
class Run:
  """`count` consecutive layers of one shape [n_below, n]; their parameters are stacked."""

  count: int
  n_below: int
  n: int


@dataclasses.dataclass(frozen=True)
class MLP:
  """Architecture of the base model: L = len(hidden) + 1 layers, z_l = norm(x_{l-1} W_l) + b_l.

  Equal-shaped neighbouring layers are stacked ("runs"), so that they can be scanned and compilation
  does not grow with depth.

  Attributes:
    n_inputs: n_0, the length of a flattened example.
    hidden: widths n_1 .. n_{L-1}.
    n_outputs: n_L, the width of the embedding.
    nonlinearity: a name in `NONLINEARITIES`.
  """

  n_inputs: int
  hidden: tuple[int, ...] = (128, 128, 128, 128)
  n_outputs: int = 32
  nonlinearity: str = "relu"

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
    if self.nonlinearity not in NONLINEARITIES:
      raise UnsupRuleError(
        f"unknown nonlinearity {self.nonlinearity!r}; choose one of {', '.join(NONLINEARITIES)}"
      )
    if min(self.sizes) < 1:
      raise UnsupRuleError(f"layer sizes {self.sizes} must all be at least 1")

  @property
  def sizes(self) -> tuple[int, ...]:
    """(n_0, n_1, .., n_L)."""
    return (self.n_inputs, *self.hidden, self.n_outputs)

  @property
  def n_layers(self) -> int:
    """L, the number of weight matrices."""
    return len(self.sizes) - 1

  @property
  def runs(self) -> tuple[Run, ...]:
    """The layers from the bottom, grouped into stretches of equal shape."""
    shapes = itertools.pairwise(self.sizes)
    return tuple(Run(len(list(group)), *shape) for shape, group in itertools.groupby(shapes))

  @property
  def bands(self) -> tuple[tuple[int, ...], ...]:
    """Indices of the runs, grouped by the width n: what happens in units is the same in each."""
    groups = itertools.groupby(range(len(self.runs)), lambda i: self.runs[i].n)
    return tuple(tuple(group) for _, group in groups)

  @property
  def n_parameters(self) -> int:
    """Numbers in {W, b, V} together."""
    return sum(run.count * (2 * run.n_below + 1) * run.n for run in self.runs)

  def init(self, key: jax.Array) -> Params:
    """Draws {"layers_r": {"w": [R,M,N], "b": [R,N], "v": [R,M,N]}}, float32.

    W and V are independent truncated normals of sigma 0.01, b of sigma 0.1 (not zero), all cut at
    two sigma and not rescaled, as in the authors' program.
    """
    params = {}
    for index, run in enumerate(self.runs):
      w_key, b_key, v_key = prng.split(jax.random.fold_in(key, index), 3)
      matrix = (run.count, run.n_below, run.n)
      params[f"layers_{index}"] = {
        "w": W_STDDEV * prng.truncated_normal(w_key, matrix),
        "b": B_STDDEV * prng.truncated_normal(b_key, (run.count, run.n)),
        "v": W_STDDEV * prng.truncated_normal(v_key, matrix),
      }
    return params

  def apply(self, params: Params, x_BxN: jax.Array, mask_B: jax.Array | None = None) -> Activations:
    """Runs the model on a batch, normalising with that batch's own statistics.

    Args:
      params: as `init` makes them.
      x_BxN: flattened examples [B, n_0].
      mask_B: optional, 1 for an example that is there and 0 for one that is missing. Examples that
        are there are moved to the front, in order, so that the rule sees the batch it would have
        seen without the missing ones.

    Returns:
      {"x0": [B,n_0], "layers_r": {"z": [R,B,N], "x": [R,B,N]}, "slope": [], "mask": [B] (only if
      given)}; z is the normalised, offset value, x = nonlinearity(z), and `slope` that of the
      nonlinearity far above 0: 1, or 0 if it saturates.
    """
    phi = NONLINEARITIES[self.nonlinearity]
    activations: Activations = {"slope": phi(jnp.float32(FAR + 1)) - phi(jnp.float32(FAR))}
    if mask_B is not None:
      order_B = jnp.argsort(1 - mask_B.astype(jnp.int32), stable=True)
      mask_B = mask_B[order_B].astype(x_BxN.dtype)
      x_BxN = jnp.where(mask_B[:, None] > 0, x_BxN[order_B], 0)
      activations["mask"] = mask_B
    activations["x0"] = x_BxN

    def layer(x_BxM, weights):
      z_BxN = batch_standardise(x_BxM @ weights["w"], mask_B, EPSILON) + weights["b"][None, :]
      out_BxN = phi(z_BxN)
      return out_BxN, {"z": z_BxN, "x": out_BxN}

    for name, run in zip(run_names(self), self.runs, strict=True):
      weights = {"w": params[name]["w"], "b": params[name]["b"]}
      x_BxN, activations[name] = scan_or_call(layer, x_BxN, weights, run.count)
    return activations

  def features(
    self, params: Params, x_BxN: jax.Array, mask_B: jax.Array | None = None
  ) -> jax.Array:
    """The embedding x_L [B, n_L] of a batch, under the batch's own statistics."""
    return embedding(self, self.apply(params, x_BxN, mask_B))

  def layers(self, tree: dict[str, dict[str, jax.Array]]) -> list[dict[str, jax.Array]]:
    """Unstacks parameters, changes or activations into one dict a layer, from the bottom."""
    return [
      {key: value[i] for key, value in tree[name].items()}
      for name, run in zip(run_names(self), self.runs, strict=True)
      for i in range(run.count)
    ]

  def from_layers(self, layers: list[dict[str, jax.Array]]) -> Params:
    """The inverse of `layers`."""
    params, first = {}, 0
    for name, run in zip(run_names(self), self.runs, strict=True):
      group = layers[first : first + run.count]
      params[name] = {key: jnp.stack([layer[key] for layer in group]) for key in group[0]}
      first += run.count
    return params


def mlp_of(params: Params) -> MLP:
  """Reads the architecture back from the shapes of {W, b, V}, which say no nonlinearity."""
  widths = []
  for i in range(len(params)):
    count, n_below, n = params[f"layers_{i}"]["w"].shape
    widths += [n_below] * (i == 0) + [n] * count
  return MLP(n_inputs=widths[0], hidden=tuple(widths[1:-1]), n_outputs=widths[-1])


def run_names(mlp: MLP) -> tuple[str, ...]:
  """Keys of the runs in parameters and activations, from the bottom."""
  return tuple(f"layers_{index}" for index in range(len(mlp.runs)))


def embedding(mlp: MLP, activations: Activations) -> jax.Array:
  """x_L [B, n_L] out of a batch's activations."""
  return activations[run_names(mlp)[-1]]["x"][-1]


def batch_mean(x_BxN: jax.Array, mask_B: jax.Array | None) -> jax.Array:
  """Mean over the examples that are there: [B, ...] -> [1, ...]."""
  if mask_B is None:
    return jnp.mean(x_BxN, axis=0, keepdims=True)
  mask = mask_B.reshape((-1,) + (1,) * (x_BxN.ndim - 1))
  return jnp.sum(x_BxN * mask, axis=0, keepdims=True) / jnp.maximum(jnp.sum(mask_B), 1)


def batch_standardise(x_BxN: jax.Array, mask_B: jax.Array | None, epsilon: float) -> jax.Array:
  """(x - mean_B) / sqrt(var_B + epsilon) with the population variance, two-pass."""
  centred_BxN = x_BxN - batch_mean(x_BxN, mask_B)
  return centred_BxN * jax.lax.rsqrt(batch_mean(jnp.square(centred_BxN), mask_B) + epsilon)


def scan_or_call(function, carry, stacked, count: int):
  """`lax.scan` over a run; a run of one is called directly, which spares the loop."""
  if count > 1:
    return jax.lax.scan(function, carry, stacked)
  carry, out = function(carry, jax.tree.map(lambda leaf: leaf[0], stacked))
  return carry, jax.tree.map(lambda leaf: leaf[None], out)


def flatten_examples(x: jax.Array) -> jax.Array:
  """[B, H, W, C] -> [B, n_0], row-major; [B, n_0] is left as it is."""
  return x.reshape(x.shape[0], math.prod(x.shape[1:]))
