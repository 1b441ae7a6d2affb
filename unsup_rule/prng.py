"""Random numbers as `jax.random` draws them, in few lengths, so that few programs are compiled.

Number i of a draw depends on the key and on i alone (`jax_threefry_partitionable`, jax's default),
so that the first n of a longer draw are the draw of n. XLA:CPU compiles its generator for each
length anew, and spends a quarter of the time for a truncation on them where each draw has a length
of its own.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

_SHORTEST, _LONGEST = 128, 4096


def _length(n: int) -> int:
  """A power of two, unless n is so large that numbers drawn in vain would cost more."""
  if n > _LONGEST or not jax.config.jax_threefry_partitionable:  # pyright: ignore[reportAttributeAccessIssue]
    return n
  return max(_SHORTEST, 1 << (n - 1).bit_length())


def _first(drawn: jax.Array, shape: Sequence[int]) -> jax.Array:
  return drawn[: math.prod(shape)].reshape(shape)


def split(key: jax.Array, n: int = 2) -> jax.Array:
  """n keys out of one."""
  return jax.random.split(key, _length(n))[:n]


def uniform(key: jax.Array, shape: Sequence[int] = ()) -> jax.Array:
  """Numbers in [0, 1) of a shape, float32."""
  return _first(jax.random.uniform(key, (_length(math.prod(shape)),), jnp.float32), shape)


def integers(key: jax.Array, shape: Sequence[int], below: jax.Array | int) -> jax.Array:
  """Numbers 0 .. below - 1 of a shape; `below` is one number."""
  length = _length(math.prod(shape))
  return _first(jax.random.randint(key, (length,), 0, below, jnp.int32), shape)


def truncated_normal(key: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Standard normal numbers of a shape, float32, cut at two deviations and not rescaled."""
  length = _length(math.prod(shape))
  return _first(jax.random.truncated_normal(key, -2.0, 2.0, (length,), jnp.float32), shape)
