"""Theta as meta-training begins with it, made with Haiku (docs/rule.md, section 2)."""

import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from unsup_rule import prng
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.terms import terms
from unsup_rule.rule.theta import COEFFICIENTS, Sizes, Spec, Theta, specs


@functools.partial(jax.jit, static_argnums=0)
def init_theta(sizes: Sizes, key: jax.Array) -> Theta:
  """Draws theta as its table says."""

  def make() -> None:
    for name, spec in specs(sizes).items():
      module, _, leaf = name.rpartition("/")
      with hk.name_scope(hk.force_name(module)):
        hk.get_parameter(leaf, spec.shape, init=_initializer(spec))

  return {module: dict(leaves) for module, leaves in hk.transform(make).init(key).items()}


def _initializer(spec: Spec) -> hk.initializers.Initializer:
  if not spec.deviation:
    return hk.initializers.Constant(spec.mean)
  return lambda shape, _: (
    spec.mean + spec.deviation * prng.truncated_normal(hk.next_rng_key(), shape)
  )


def checked_coefficients(coefficients: Mapping[str, float], sizes: Sizes) -> dict[str, float]:
  """Raises if a key is no term of a rule of these sizes."""
  known = terms(sizes.n_terms)
  for key in coefficients:
    if key not in known:
      raise UnsupRuleError(
        f"UnsupervisedRule.initial_coefficients names {key!r}; use {', '.join(known)}"
      )
  return dict(coefficients)


def with_coefficients(theta: Theta, coefficients: Mapping[str, float]) -> Theta:
  """Theta with these mixing coefficients, those of V included."""
  values = jnp.array(list(coefficients.values()), jnp.float32)

  def changed(w_Tx1: jax.Array) -> jax.Array:
    names = list(terms(len(w_Tx1)))
    index = jnp.array([names.index(key) for key in coefficients], jnp.int32)
    return jnp.asarray(w_Tx1).at[index, 0].set(values)

  mixing = {
    name: module | {"w": changed(module["w"])}
    for name, module in theta.items()
    if coefficients and name.endswith(COEFFICIENTS)
  }
  return {**theta, **mixing}
