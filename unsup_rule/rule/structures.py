"""What the base model holds and computes, layer by layer (docs/rule.md, section 3).

Equal-shaped neighbouring layers are stacked along a first axis R, as `MLP.stacks` says.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Layers = TypeVar("Layers", "Weights", "Signals")


class Weights(NamedTuple):
  """Parameters of R stacked layers, or of one, without the axis R.

  Attributes:
    w: forward matrices [R, M, N], rows for the units below.
    b: biases [R, N].
    v: backward matrices [R, M, N].
  """

  w: jax.Array
  b: jax.Array
  v: jax.Array


class Signals(NamedTuple):
  """What R stacked layers, or one, made of a batch.

  Attributes:
    z: normalised, offset values [R, B, N].
    x: the nonlinearity of z.
  """

  z: jax.Array
  x: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Params:
  """phi = {W, b, V} of a base model, or a change of it.

  Attributes:
    stacks: from the bottom.
  """

  stacks: tuple[Weights, ...]

  @classmethod
  def of_layers(cls, layers: Sequence[Weights]) -> "Params":
    """The inverse of `layers`."""
    groups = itertools.groupby(layers, lambda layer: layer.w.shape)
    return cls(tuple(jax.tree.map(lambda *leaves: jnp.stack(leaves), *g) for _, g in groups))

  @property
  def layers(self) -> list[Weights]:
    """Each layer by itself, from the bottom."""
    return _unstacked(self.stacks)

  def layer(self, number: int) -> Weights:
    """W_l, b_l and V_l, for l = 1 .. L."""
    return self.layers[number - 1]

  def permuted(self, order_N: jax.Array | np.ndarray) -> "Params":
    """{W, b, V} that do with inputs x[:, order] what these do with x."""
    bottom, *rest = self.stacks

    def rows(stacked_RxMxN: jax.Array) -> jax.Array:
      stacked_RxMxN = jnp.asarray(stacked_RxMxN)
      lowest_1xMxN = stacked_RxMxN[:1, order_N]
      others = stacked_RxMxN[1:]
      return jnp.concatenate([lowest_1xMxN, others]) if len(others) else lowest_1xMxN

    return Params((bottom._replace(w=rows(bottom.w), v=rows(bottom.v)), *rest))

  def items(self) -> Iterator[tuple[str, jax.Array]]:
    """Arrays by name, for the library, which walks through parameters to summarise them."""
    for index, stack in enumerate(self.stacks):
      for name, value in stack._asdict().items():
        yield f"layers_{index}/{name}", value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Activations:
  """What a base model made of a batch.

  Attributes:
    x_0: the flattened examples [B, n_0].
    stacks: of the layers, from the bottom.
    mask: 1 for examples that are there and 0 for those after them, [B]; None if all are.
    slope: of the nonlinearity far above 0, 1 or 0; no array, but a property of the model.
  """

  x_0: jax.Array
  stacks: tuple[Signals, ...]
  mask: jax.Array | None = None
  slope: float = dataclasses.field(default=1.0, metadata={"static": True})

  @property
  def layers(self) -> list[Signals]:
    """Each layer by itself, from the bottom."""
    return _unstacked(self.stacks)

  @property
  def embedding(self) -> jax.Array:
    """x_L [B, n_L]."""
    return self.stacks[-1].x[-1]

  def x(self, number: int) -> jax.Array:
    """x_l [B, n_l], for l = 0 .. L."""
    return self.layers[number - 1].x if number else self.x_0

  def z(self, number: int) -> jax.Array:
    """z_l [B, n_l], for l = 1 .. L."""
    return self.layers[number - 1].z

  def permuted(self, order_N: jax.Array | np.ndarray) -> "Activations":
    """The same with the inputs in this order."""
    return dataclasses.replace(self, x_0=jnp.asarray(self.x_0)[:, order_N])


def _unstacked(stacks: Sequence[Layers]) -> list[Layers]:
  return [
    jax.tree.map(lambda leaf, i=i: leaf[i], stack) for stack in stacks for i in range(len(stack[0]))
  ]
