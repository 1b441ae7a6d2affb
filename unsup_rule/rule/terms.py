"""The terms of the weight change, as a table (docs/rule.md, 4.4; the paper, G), and one more.

Shape legend: B examples, M units below, N units above, C channels of h, G channels of a readout.
R(k; h1, h2)[i, j] = (1/(G B)) sum_{b,g} S[b,i,g] T[b,j,g], rows from h2, columns from h1.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unsup_rule.rule.layers import masked
from unsup_rule.rule.mlp import batch_standardise
from unsup_rule.rule.theta import Theta
from unsup_rule.rule.tuning import products


@dataclasses.dataclass(frozen=True)
class Connection:
  """What the change of one matrix between two layers is computed from.

  Attributes:
    theta: parameters of the rule.
    direction: "forward" for W, "backward" for V: whose readouts are used.
    matrix: the raw matrix M [M, N] to be changed.
    h_upper, h_lower: [C, B, N] and [C, B, M].
    x_upper, x_lower: post-activations [B, N] and [B, M].
    mask_B: 1 for examples that are there, or None.
  """

  theta: Theta
  direction: str
  matrix: jax.Array
  h_upper: jax.Array
  h_lower: jax.Array
  x_upper: jax.Array
  x_lower: jax.Array
  mask_B: jax.Array | None

  @functools.cached_property
  def w(self) -> jax.Array:
    """M / rms of each column ("receptive field"), [M, N]."""
    m = self.matrix
    return m * jax.lax.rsqrt(jnp.mean(jnp.square(m), axis=0, keepdims=True) + 1e-6)

  @functools.cached_property
  def q(self) -> jax.Array:
    """sqrt(1 + w^2) - 1, [M, N]."""
    return jnp.sqrt(1 + jnp.square(self.w)) - 1

  @property
  def batch(self) -> jax.Array | int:
    """B, the number of examples that are there."""
    if self.mask_B is None:
      return self.x_upper.shape[0]
    return jnp.maximum(jnp.sum(self.mask_B), 1)

  def standardised(self, x: jax.Array) -> jax.Array:
    """(x - mean_B) / sqrt(var_B + 1e-6); zero where an example is missing."""
    standard = batch_standardise(x, self.mask_B, 1e-6)
    return standard if self.mask_B is None else standard * self.mask_B[:, None]

  @functools.cached_property
  def u(self) -> jax.Array:
    """U = std(x_upper), [B, N]."""
    return self.standardised(self.x_upper)

  @functools.cached_property
  def correlations(self) -> jax.Array:
    """U^T U / B, [N, N]."""
    return self.u.T @ self.u / self.batch

  @functools.cached_property
  def u_lower(self) -> jax.Array:
    """std(x_lower), [B, M]."""
    return self.standardised(self.x_lower)

  @property
  def mean_square_correlation_below(self) -> jax.Array:
    """Over all pairs of lower units that vary, a unit with itself too: 1 over their directions."""
    u = self.u_lower
    gram = u @ u.T if u.shape[0] < u.shape[1] else u.T @ u
    return jnp.sum(jnp.square(gram)) / jnp.square(jnp.trace(gram) + 1e-6)

  @functools.cached_property
  def _readouts(self) -> dict[str, jax.Array]:
    """R(k; columns, rows) of every readout name k."""
    readouts = {}
    for group in _READOUTS:
      s_KxGBxI, t_KxGBxJ = self._blocks(group)
      r_KxIxJ = jnp.einsum("kbi,kbj->kij", s_KxGBxI, t_KxGBxJ) / self._mean_over
      readouts |= dict(zip(group.names, r_KxIxJ, strict=True))
    return readouts

  @functools.cached_property
  def _projected(self) -> dict[str, list[jax.Array]]:
    """What the heads make of h, by the end that they read."""
    return {"upper": self._project("upper"), "lower": self._project("lower")}

  @property
  def _mean_over(self) -> jax.Array | int:
    """G B, over which R is a mean."""
    return self._projected["upper"][0].shape[1] // self.x_upper.shape[0] * self.batch

  def _blocks(self, group: "_Readouts") -> tuple[jax.Array, jax.Array]:
    """S [K, G B, I] and T [K, G B, J] of a group."""
    s, t = (self._projected[end][block] for end, block in (group.rows, group.columns))
    return s, t

  def _sides(self, name: str) -> tuple[jax.Array, jax.Array]:
    """S [G B, I] and T [G B, J] of one readout."""
    (group,) = (group for group in _READOUTS if name in group.names)
    s, t = (block[group.names.index(name)] for block in self._blocks(group))
    return s, t

  def _project(self, end: str) -> list[jax.Array]:
    """h A + a of all heads that read the `end`: [K, G B, I] a block of heads."""
    h_CxBxI = getattr(self, f"h_{end}")
    heads = [[f"{self.direction}{head}/linear" for head in block] for block in _HEADS[end]]
    batch, n = h_CxBxI.shape[1:]
    blocks = products.linears(self.theta, heads, h_CxBxI)
    return [masked(p.reshape(-1, batch, n), self.mask_B).reshape(len(p), -1, n) for p in blocks]

  def readout(self, name: str) -> jax.Array:
    """R(name; ., .), [rows, columns]; where each side comes from is said in `_READOUTS`."""
    return self._readouts[name]

  def symmetric(self, name: str) -> jax.Array:
    """symm(R) = (R + R^T)/sqrt(2), zero diagonal, over sqrt(size)."""
    r = self.readout(name)
    size = r.shape[0]
    r = (r + r.T) / jnp.sqrt(2.0)
    return _off_diagonal(r) / jnp.sqrt(jnp.float32(size))

  def semidefinite(self, name: str) -> jax.Array:
    """R/sqrt(size) with the top readout on both sides; diagonal kept."""
    r = self.readout(name)
    return r / jnp.sqrt(jnp.float32(r.shape[0]))

  def symmetric_times(self, name: str, x: jax.Array) -> jax.Array:
    """symm(R) x, without a square matrix where that is cheaper; x [size, J]."""
    s_GBxI, t_GBxI = self._sides(name)
    if not products.is_low_rank(s_GBxI, x.shape[1]):
      return self.symmetric(name) @ x
    scale = self._mean_over * jnp.sqrt(jnp.float32(2 * x.shape[0]))
    return products.symmetric_times(s_GBxI, t_GBxI, x) / scale

  def times_symmetric(self, x: jax.Array, name: str) -> jax.Array:
    """x symm(R), likewise; x [J, size]."""
    if products.is_low_rank(self._sides(name)[0], x.shape[0]):
      return self.symmetric_times(name, x.T).T
    return x @ self.symmetric(name)

  def times_semidefinite(self, x: jax.Array, name: str) -> jax.Array:
    """x R / sqrt(size), likewise; x [J, size]."""
    t_GBxI, _ = self._sides(name)
    if not products.is_low_rank(t_GBxI, x.shape[0]):
      return x @ self.semidefinite(name)
    return products.times_gram(x, t_GBxI) / (self._mean_over * jnp.sqrt(jnp.float32(x.shape[1])))


class _Readouts(NamedTuple):
  """Readouts that are one batched product; each side is an end of the connection and its block."""

  names: tuple[str, ...]
  rows: tuple[str, int]
  columns: tuple[str, int]


# Heads of the readouts by the h that they read, in blocks of those that are used together.
_ACROSS = ("weight_readout_0", "weight_readout_1", "weight_readout_rbf")
_UPPER, _LOWER = ("lin_upper_symm", "sqr_upper_symm"), ("lin_lower_symm", "sqr_lower_symm")
_PSD = ("lin_upper_psd",)


def _sides(names: tuple[str, ...], side: str) -> tuple[str, ...]:
  return tuple(f"{name}_{side}" for name in names)


_HEADS = {
  "upper": (
    _sides(_ACROSS, "top"),
    _sides(_UPPER, "top"),
    _sides(_UPPER, "bottom"),
    _sides(_PSD, "top"),
  ),
  "lower": (_sides(_ACROSS, "bottom"), _sides(_LOWER, "top"), _sides(_LOWER, "bottom")),
}
_READOUTS = (
  _Readouts(_ACROSS, rows=("lower", 0), columns=("upper", 0)),
  _Readouts(_UPPER, rows=("upper", 2), columns=("upper", 1)),
  _Readouts(_PSD, rows=("upper", 3), columns=("upper", 3)),
  _Readouts(_LOWER, rows=("lower", 2), columns=("lower", 1)),
)


def _off_diagonal(a_NxN: jax.Array) -> jax.Array:
  return a_NxN * (1 - jnp.eye(len(a_NxN), dtype=a_NxN.dtype))


def decorrelation(c: Connection) -> jax.Array:
  """w (U^T U / B) / sqrt(n), over its own root mean square."""
  if products.is_low_rank(c.u, len(c.w)):
    a = products.times_gram(c.w, c.u) / c.batch
  else:
    a = c.w @ c.correlations
  a = a / jnp.sqrt(jnp.float32(c.u.shape[1]))
  return a * jax.lax.rsqrt(jnp.mean(jnp.square(a) + 1e-8))


def redundancy(c: Connection) -> jax.Array:
  """4.21: w C / sqrt(n), C the correlations between units that need not be.

  Units that have nothing to do with each other correlate by 1 / sqrt(B) in a batch of B examples,
  and units fed by few directions do so at any rate. Squared correlations within the sum of 3 / B
  and the mean below count for nothing, and beyond it for less than they are. Takes the [N, N]
  matrix: C has no factors.
  """
  limit = 3 / c.batch + c.mean_square_correlation_below
  kept_NxN = jax.nn.relu(1 - limit / (jnp.square(c.correlations) + 1e-6))
  shared_NxN = _off_diagonal(c.correlations * kept_NxN)
  return c.w @ shared_NxN / jnp.sqrt(jnp.float32(len(shared_NxN)))


def hebbian(c: Connection) -> jax.Array:
  """-(std(x_lower)^T std(x_upper)) / B."""
  return -(c.u_lower.T @ c.u) / c.batch


# Sorted by key: the order of the mixing coefficients.
TERMS: dict[str, Callable[[Connection], jax.Array]] = {
  "0_order": lambda c: c.readout("weight_readout_0"),
  "1_order": lambda c: c.w * c.readout("weight_readout_1"),
  "decorr_x": decorrelation,
  "hebb": hebbian,
  "large_decay": lambda c: jnp.square(c.w) * jnp.sign(c.w),
  "lin_lower_symm": lambda c: c.symmetric_times("lin_lower_symm", c.w),
  "lin_upper_psd": lambda c: c.times_semidefinite(c.w, "lin_upper_psd"),
  "lin_upper_symm": lambda c: c.times_symmetric(c.w, "lin_upper_symm"),
  "rbf": lambda c: jnp.exp(-jnp.square(c.w)) * c.readout("weight_readout_rbf"),
  "sqr_lower_symm": lambda c: jnp.sign(c.w) * c.symmetric_times("sqr_lower_symm", c.q),
  "sqr_upper_symm": lambda c: jnp.sign(c.w) * c.times_symmetric(c.q, "sqr_upper_symm"),
  "w_base": lambda c: c.w,
}
# Additions to the paper's, after which a theta with more coefficients has them.
ADDED_TERMS: dict[str, Callable[[Connection], jax.Array]] = {"redundancy": redundancy}


def terms(number: int) -> dict[str, Callable[[Connection], jax.Array]]:
  """Those that a theta with this number of mixing coefficients mixes, in their order."""
  return dict(itertools.islice((TERMS | ADDED_TERMS).items(), number))
