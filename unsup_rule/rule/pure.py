"""The rule as a pure function: `unsup_rule.step`."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule import step as inner
from unsup_rule.rule.mlp import flatten_examples, mlp_of
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.structures import Params, Weights
from unsup_rule.rule.theta import Theta, sizes_of

Layer = tuple[jax.Array, jax.Array, jax.Array]
Model = TypeVar("Model", bound=Params | Sequence[Layer])


class Rule(Protocol):
  """What `pretrained` returns, or whatever else has these two."""

  @property
  def theta(self) -> Theta: ...
  @property
  def schedule(self) -> InnerSchedule: ...


def step(
  rule: Rule, params: Model, x: jax.Array, t: jax.Array | int = 0, nonlinearity: str = "relu"
) -> Model:
  """The base model after one application of the rule to a batch.

  A pure function, for `jax.jit`, `lax.scan`, `vmap` and `grad`, the rule among its arguments or
  not: what `pretrained` returns is a pytree whose leaves are theta.

  Args:
    rule: a meta-trained rule.
    params: of the base model, from the bottom: a list or tuple of layers (W [M, N], b [N],
      V [M, N]), or `Params`, as `MLP.init` draws them.
    x: a batch of two or more examples, [B, ..].
    t: number of the step, from 0.
    nonlinearity: of all layers, a name in `unsup_rule.rule.mlp.NONLINEARITIES`.

  Returns:
    New parameters, a tree like `params`.

  Raises:
    UnsupRuleError: the last layer is of another width than theta's embedding, layers do not fit
      together or are not in floating point, x does not fit the first, or holds one example.
  """
  if not hasattr(rule, "theta") or not hasattr(rule, "schedule"):
    raise UnsupRuleError(f"rule is {type(rule).__name__}; give what unsup_rule.pretrained returns")
  model = params if isinstance(params, Params) else _of_layers(params)
  for leaf in jax.tree.leaves(model):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise UnsupRuleError(f"params holds {leaf.dtype}; give weights in floating point")
  mlp = mlp_of(model, nonlinearity)
  theta = jax.tree.map(jnp.asarray, rule.theta)
  activations = mlp.apply(model, flatten_examples(jnp.asarray(x)))
  new = inner.step(sizes_of(theta), theta, rule.schedule, model, activations, t)
  if isinstance(params, Params):
    return new  # pyright: ignore[reportReturnType]
  leaves = jax.tree.leaves([tuple(layer) for layer in new.layers])
  return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _of_layers(layers: Sequence[Layer]) -> Params:
  """Layers that fit together, stacked."""
  below = None
  for number, layer in enumerate(layers, 1):
    if len(layer) != 3:
      raise UnsupRuleError(f"layer {number} has {len(layer)} arrays; give W, b and V")
    w, b, v = layer
    if w.ndim != 2 or v.shape != w.shape or b.shape != w.shape[1:] or below not in (None, len(w)):
      raise UnsupRuleError(
        f"layer {number} has W {w.shape}, b {b.shape}, V {v.shape}; give [M, N], [N] and [M, N], "
        "M being N of the layer below"
      )
    below = w.shape[1]
  if below is None:
    raise UnsupRuleError("params holds no layer; give (W, b, V) of one or more")
  return Params.of_layers([Weights(*layer) for layer in layers])
