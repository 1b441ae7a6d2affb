"""The base model: an MLP with batch normalisation, and what the rule trains (docs/rule.md, 3).

Shape legend: B examples, M units below, N units of a layer, R consecutive layers of equal shape.
"""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from unsup_rule import prng
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.structures import Activations, Params, Signals, Weights

Carry = TypeVar("Carry")
Stacked = TypeVar("Stacked")
Out = TypeVar("Out")

EPSILON = 1e-6  # under the root of the base model's batch normalisation
W_STDDEV = 0.01  # of the truncated normal that W and V are drawn from
B_STDDEV = 0.1

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
SATURATING = ("tanh", "sigmoid", "step")  # far above 0; the others have a slope of 1 there


@dataclasses.dataclass(frozen=True)
class LayerStack:
  """`count` consecutive layers of one shape [n_below, n]; their parameters are stacked."""

  count: int
  n_below: int
  n: int


@dataclasses.dataclass(frozen=True)
class MLP:
  """Architecture of the base model: L = len(hidden) + 1 layers, z_l = norm(x_{l-1} W_l) + b_l.

  Equal-shaped neighbouring layers are stacked, so that they can be scanned and compilation does not
  grow with depth.

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
    try:
      object.__setattr__(self, "hidden", tuple(operator.index(width) for width in self.hidden))
      object.__setattr__(self, "n_inputs", operator.index(self.n_inputs))
      object.__setattr__(self, "n_outputs", operator.index(self.n_outputs))
    except TypeError as error:
      raise UnsupRuleError(
        f"layer sizes {self.n_inputs!r}, {self.hidden!r} and {self.n_outputs!r} must be a whole "
        "number, some, and one"
      ) from error
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
  def stacks(self) -> tuple[LayerStack, ...]:
    """The layers from the bottom, grouped into stretches of equal shape."""
    shapes = itertools.pairwise(self.sizes)
    return tuple(LayerStack(len(list(group)), *shape) for shape, group in itertools.groupby(shapes))

  @property
  def n_parameters(self) -> int:
    """Numbers in {W, b, V} together."""
    return sum(stack.count * (2 * stack.n_below + 1) * stack.n for stack in self.stacks)

  @property
  def slope(self) -> float:
    """Of the nonlinearity far above 0: 1, or 0 if it saturates."""
    return 0.0 if self.nonlinearity in SATURATING else 1.0

  def init(self, key: jax.Array) -> Params:
    """Draws {W, b, V}, float32.

    W and V are independent truncated normals of sigma 0.01, b of sigma 0.1 (not zero), all cut at
    two sigma and not rescaled, as in the authors' program.
    """
    stacks = []
    for index, stack in enumerate(self.stacks):
      w_key, b_key, v_key = prng.split(jax.random.fold_in(key, index), 3)
      matrix = (stack.count, stack.n_below, stack.n)
      stacks.append(
        Weights(
          w=W_STDDEV * prng.truncated_normal(w_key, matrix),
          b=B_STDDEV * prng.truncated_normal(b_key, (stack.count, stack.n)),
          v=W_STDDEV * prng.truncated_normal(v_key, matrix),
        )
      )
    return Params(tuple(stacks))

  def apply(self, params: Params, x_BxN: jax.Array, mask_B: jax.Array | None = None) -> Activations:
    """Runs the model on a batch, normalising with that batch's own statistics.

    Args:
      params: as `init` makes them.
      x_BxN: flattened examples [B, n_0].
      mask_B: optional, 1 for an example that is there and 0 for one that is missing. Examples that
        are there are moved to the front, in order, so that the rule sees the batch it would have
        seen without the missing ones.

    Raises:
      UnsupRuleError: x_BxN is not of this shape.
    """
    if x_BxN.ndim != 2 or x_BxN.shape[1] != self.n_inputs:
      raise UnsupRuleError(
        f"x is {list(x_BxN.shape)}; give a batch of flattened examples, [B, {self.n_inputs}]"
      )
    phi = NONLINEARITIES[self.nonlinearity]
    if mask_B is not None:
      order_B = jnp.argsort(1 - mask_B.astype(jnp.int32), stable=True)
      mask_B = mask_B[order_B].astype(x_BxN.dtype)
      x_BxN = jnp.where(mask_B[:, None] > 0, x_BxN[order_B], 0)

    def layer(x_BxM: jax.Array, w_and_b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Signals]:
      w_MxN, b_N = w_and_b
      z_BxN = batch_standardise(x_BxM @ w_MxN, mask_B, EPSILON) + b_N[None, :]
      out_BxN = phi(z_BxN)
      return out_BxN, Signals(z=z_BxN, x=out_BxN)

    stacks, below_BxM = [], x_BxN
    for weights, stack in zip(params.stacks, self.stacks, strict=True):
      below_BxM, signals = scan_or_call(layer, below_BxM, (weights.w, weights.b), stack.count)
      stacks.append(signals)
    return Activations(x_BxN, tuple(stacks), mask_B, self.slope)

  def features(
    self, params: Params, x_BxN: jax.Array, mask_B: jax.Array | None = None
  ) -> jax.Array:
    """The embedding x_L [B, n_L] of a batch, under the batch's own statistics."""
    return self.apply(params, x_BxN, mask_B).embedding


def mlp_of(params: Params, nonlinearity: str = "relu") -> MLP:
  """Reads the architecture back from the shapes of {W, b, V}, which say no nonlinearity."""
  widths = [params.stacks[0].w.shape[1]]
  for stack in params.stacks:
    widths += [stack.w.shape[2]] * len(stack.w)
  return MLP(widths[0], tuple(widths[1:-1]), widths[-1], nonlinearity)


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


def scan_or_call(
  function: Callable[[Carry, Stacked], tuple[Carry, Out]],
  carry: Carry,
  stacked: Stacked,
  count: int,
) -> tuple[Carry, Out]:
  """`lax.scan` over a stack; a stack of one is called directly, which spares the loop."""
  if count > 1:
    return jax.lax.scan(function, carry, stacked)
  carry, out = function(carry, jax.tree.map(lambda leaf: leaf[0], stacked))
  return carry, jax.tree.map(lambda leaf: leaf[None], out)


def flatten_examples(x: jax.Array) -> jax.Array:
  """[B, H, W, C] -> [B, n_0], row-major; what has no examples is left for `MLP.apply` to refuse."""
  if x.ndim < 2:
    return x
  return x.reshape(x.shape[0], math.prod(x.shape[1:]))
