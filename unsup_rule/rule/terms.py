"""The twelve terms of the weight change, as one table beside SPEC section 4.4 (paper: appendix G).

Shape legend: B examples, M units below, N units above, C channels of h, G channels of a readout.
R(k; h1, h2)[i, j] = (1/(G B)) sum_{b,g} S[b,i,g] T[b,j,g], rows from h2, columns from h1.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unsup_rule.mlp import batch_standardise
from unsup_rule.rule.layers import linear, masked
from unsup_rule.rule.sizes import Theta


@dataclasses.dataclass(frozen=True)
class Connection:
  """What the change of one matrix between two layers is computed from.

  Attributes:
    theta: parameters of the rule.
    direction: "forward" for W, "backward" for V: whose readouts are used.
    matrix: the raw matrix M [M, N] to be changed.
    h_upper, h_lower: [B, N, C] and [B, M, C].
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
    return masked(batch_standardise(x, self.mask_B, 1e-6), self.mask_B)

  @functools.cached_property
  def u(self) -> jax.Array:
    """U = std(x_upper), [B, N]."""
    return self.standardised(self.x_upper)

  def _outer(self, s_BxIxG: jax.Array, t_BxJxG: jax.Array) -> jax.Array:
    product = jnp.einsum("big,bjg->ij", masked(s_BxIxG, self.mask_B), t_BxJxG)
    return product / (s_BxIxG.shape[-1] * self.batch)

  def readout(self, name: str, columns: jax.Array, rows: jax.Array) -> jax.Array:
    """R(name; columns, rows), [rows, columns]."""
    t = linear(self.theta, f"{self.direction}{name}_top/linear", columns)
    s = linear(self.theta, f"{self.direction}{name}_bottom/linear", rows)
    return self._outer(s, t)

  def across(self, name: str) -> jax.Array:
    """R(name; h_upper, h_lower), [M, N]."""
    return self.readout(name, self.h_upper, self.h_lower)

  def symmetric(self, name: str, h: jax.Array) -> jax.Array:
    """symm(R(name; h, h)): (R + R^T)/sqrt(2), zero diagonal, over sqrt(size)."""
    r = self.readout(name, h, h)
    size = r.shape[0]
    r = (r + r.T) / jnp.sqrt(2.0)
    return r * (1 - jnp.eye(size, dtype=r.dtype)) / jnp.sqrt(jnp.float32(size))

  def semidefinite(self, name: str, h: jax.Array) -> jax.Array:
    """R(name; h, h)/sqrt(size) with the top readout on both sides; diagonal kept."""
    t = linear(self.theta, f"{self.direction}{name}_top/linear", h)
    return self._outer(t, t) / jnp.sqrt(jnp.float32(h.shape[1]))


def decorrelation(c: Connection) -> jax.Array:
  """w (U^T U / B) / sqrt(n), over its own root mean square."""
  gram = c.u.T @ c.u / c.batch
  a = c.w @ gram / jnp.sqrt(jnp.float32(gram.shape[0]))
  return a * jax.lax.rsqrt(jnp.mean(jnp.square(a) + 1e-8))


def hebbian(c: Connection) -> jax.Array:
  """-(std(x_lower)^T std(x_upper)) / B."""
  return -(c.standardised(c.x_lower).T @ c.u) / c.batch


# Sorted by key: the order of the mixing coefficients.
TERMS: dict[str, Callable[[Connection], jax.Array]] = {
  "0_order": lambda c: c.across("weight_readout_0"),
  "1_order": lambda c: c.w * c.across("weight_readout_1"),
  "decorr_x": decorrelation,
  "hebb": hebbian,
  "large_decay": lambda c: jnp.square(c.w) * jnp.sign(c.w),
  "lin_lower_symm": lambda c: c.symmetric("lin_lower_symm", c.h_lower) @ c.w,
  "lin_upper_psd": lambda c: c.w @ c.semidefinite("lin_upper_psd", c.h_upper),
  "lin_upper_symm": lambda c: c.w @ c.symmetric("lin_upper_symm", c.h_upper),
  "rbf": lambda c: jnp.exp(-jnp.square(c.w)) * c.across("weight_readout_rbf"),
  "sqr_lower_symm": lambda c: jnp.sign(c.w) * (c.symmetric("sqr_lower_symm", c.h_lower) @ c.q),
  "sqr_upper_symm": lambda c: jnp.sign(c.w) * (c.q @ c.symmetric("sqr_upper_symm", c.h_upper)),
  "w_base": lambda c: c.w,
}
