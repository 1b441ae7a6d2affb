"""The compiled programs of `UnsupervisedFeatures`, shared by all instances of one shape.

Rows are gathered and standardised on the host, a few batches at a time: neither the number of rows
nor that of steps is then part of a shape, so folds of a cross-validation compile nothing, and the
device never holds the whole data set.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.features import frozen
from unsup_rule.rule import outputs
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.step import step
from unsup_rule.rule.structures import Params
from unsup_rule.rule.theta import Sizes, Theta

Rows = Callable[[np.ndarray], np.ndarray]  # numbers of rows -> float32 [.., n_0]

_BLOCK = 512  # rows embedded at once; always as many, so that a row's value depends on itself alone
_CHUNK = 32  # steps at once
_CHUNK_NUMBERS = 2**24  # in their batches, at most


@functools.partial(jax.jit, static_argnames=("sizes", "schedule", "mlp"))
def _advance(
  theta: Theta,
  params: Params,
  first: int,
  x_SxBxN: jax.Array,
  count: int,
  *,
  sizes: Sizes,
  schedule: InnerSchedule,
  mlp: MLP,
) -> Params:
  """`params` after `count` steps, the first of which has the number `first`."""

  def body(i, params):
    return step(sizes, theta, schedule, params, mlp.apply(params, x_SxBxN[i]), first + i)

  return jax.lax.fori_loop(0, count, body, params)


_initial = jax.jit(MLP.init, static_argnums=0)
_freeze = jax.jit(frozen.freeze, static_argnums=0)
_embed = jax.jit(frozen.embed, static_argnums=0)
_centred = jax.jit(outputs.centred)


def initial(mlp: MLP, seed: int) -> Params:
  """{W, b, V} before any training, as numpy arrays."""
  return jax.tree.map(np.asarray, _initial(mlp, jax.random.PRNGKey(seed)))


def train(
  rule: tuple[Sizes, Theta, InnerSchedule],
  mlp: MLP,
  params: Params,
  iteration: int,
  rows: Rows,
  batches: Iterator[np.ndarray],
  progress: Callable[[int], object],
) -> Params:
  """Applies the rule to every batch.

  Args:
    rule: its sizes, theta and step size.
    mlp: the architecture.
    params: {W, b, V} before.
    iteration: applications done before, which the step size may depend on.
    rows: gives rows by their numbers.
    batches: numbers of the rows of each batch, all batches of one length.
    progress: called with the number of applications done since it was last called.

  Returns:
    {W, b, V} after, as numpy arrays.
  """
  sizes, theta, schedule = rule
  first = next(batches, None)
  if first is None:
    return params
  batches = itertools.chain([first], batches)
  length = max(1, min(_CHUNK, _CHUNK_NUMBERS // (len(first) * mlp.n_inputs)))
  theta = jax.tree.map(jnp.asarray, theta)
  while chunk := list(itertools.islice(batches, length)):
    x_SxBxN = np.zeros((length, len(first), mlp.n_inputs), np.float32)
    x_SxBxN[: len(chunk)] = rows(np.stack(chunk))
    params = _advance(
      theta, params, iteration, x_SxBxN, len(chunk), sizes=sizes, schedule=schedule, mlp=mlp
    )
    iteration += len(chunk)
    jax.block_until_ready(params)
    progress(len(chunk))
  return jax.tree.map(np.asarray, params)


def freeze(mlp: MLP, params: Params, x_BxN: np.ndarray) -> frozen.Network:
  """`frozen.freeze`, compiled for the next power of two of rows; numpy arrays."""
  return jax.tree.map(np.asarray, _freeze(mlp, params, *_padded(x_BxN)))


def centred(x_BxN: np.ndarray) -> outputs.Centred:
  """`outputs.centred`, likewise."""
  return jax.tree.map(np.asarray, _centred(*_padded(x_BxN)))


def _padded(x_BxN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rows, and then rows of zeros, and which is which."""
  n = len(x_BxN)
  padded = np.zeros((1 << max(4, (n - 1).bit_length()), x_BxN.shape[1]), np.float32)
  padded[:n] = x_BxN
  return padded, (np.arange(len(padded)) < n).astype(np.float32)


def embed(
  mlp: MLP, network: frozen.Network, n: int, rows: Rows, inputs: outputs.Centred | None = None
) -> np.ndarray:
  """`frozen.embed` of rows 0 .. n - 1, float32 [n, width]."""
  out = np.empty((n, outputs.width(mlp, "embedding" if inputs is None else "layers")), np.float32)
  network = jax.tree.map(jnp.asarray, network)
  padded = np.zeros((_BLOCK, mlp.n_inputs), np.float32)
  for start in range(0, n, _BLOCK):
    stop = min(n, start + _BLOCK)
    padded[: stop - start] = rows(np.arange(start, stop))
    out[start:stop] = np.asarray(_embed(mlp, network, padded, inputs))[: stop - start]
  return out
