"""The rule as transformations of optax, to be chained with others and masked."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.pure import Rule
from unsup_rule.rule.step import as_gradient, change, check_fit
from unsup_rule.rule.structures import Activations, Params
from unsup_rule.rule.theta import sizes_of

Node = TypeVar("Node")


class RuleState(NamedTuple):
  """The rule remembers nothing but the number of the step."""

  count: jax.Array


def scale_by_rule(rule: Rule) -> optax.GradientTransformationExtraArgs:
  """Puts old + change, of the rule, in the place of a gradient, whatever that was.

  `update(gradients, state, params, activations=...)`: `params` is `Params`, as `MLP.init` draws
  them, or any tree that has them in it and nothing else, which is what `optax.masked` shows of a
  larger one. `activations` is what `MLP.apply` returns under these, or a tree of such. Gradient
  descent with a learning rate lr, new = old - lr (old + change), then is the rule (eq. 4.17):
  `optax_transformation`.

  Args:
    rule: what `pretrained` returns.
  """
  theta = jax.tree.map(jnp.asarray, rule.theta)
  sizes = sizes_of(theta)

  def init(params: optax.Params) -> RuleState:
    for model in _models(params):
      check_fit(sizes, model)
    return RuleState(jnp.zeros([], jnp.int32))

  def update(updates, state: RuleState, params=None, *, activations=None, **_):
    del updates
    if params is None:
      raise UnsupRuleError("update got no params; pass update(gradients, state, params, ..)")
    models, made = _models(params), _all(activations, Activations)
    if len(models) != len(made):
      raise UnsupRuleError(
        f"update got {len(models)} base models and activations of {len(made)}; pass params, and "
        "activations=MLP.apply(params, x)"
      )
    if len(made) > 1 and _places(params) != _places(activations):
      raise UnsupRuleError(
        "update got params and activations in trees of different forms; give each base model's "
        "activations the place of its params"
      )

    def directed(model: Params, activations: Activations) -> Params:
      return as_gradient(
        model, change(sizes, theta, rule.schedule, model, activations, state.count)
      )

    new = map(directed, models, made)
    tree = jax.tree.map(lambda _: next(new), params, is_leaf=_is_model)
    return tree, RuleState(jnp.asarray(optax.safe_increment(state.count)))

  return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def optax_transformation(
  rule: Rule, learning_rate: optax.ScalarOrSchedule | None = None
) -> optax.GradientTransformationExtraArgs:
  """`scale_by_rule`, then a learning rate.

  Args:
    rule: what `pretrained` returns.
    learning_rate: a number or a schedule; None: the rule's own schedule, `rule.schedule.rate`.
  """
  rate = rule.schedule.rate if learning_rate is None else learning_rate
  step_size = optax.scale_by_learning_rate(rate)  # pyright: ignore[reportArgumentType]
  return optax.chain(scale_by_rule(rule), step_size)


def _is_model(node: object) -> bool:
  return isinstance(node, Params)


def _places(tree: object) -> list[tuple[object, ...]]:
  """Where in a tree base models, or their activations, are."""
  kinds = (Params, Activations)
  found, _ = jax.tree_util.tree_flatten_with_path(tree, lambda node: isinstance(node, kinds))
  return [path for path, _ in found]


def _all(tree: object, kind: type[Node]) -> list[Node]:
  """The nodes of this type; raises where there is anything else."""
  found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
  for one in found:
    if not isinstance(one, kind):
      raise UnsupRuleError(
        f"the rule met {type(one).__name__} where it knows {kind.__name__} alone; leave the rest "
        "of a model to another transformation, by optax.masked or optax.partition"
      )
  return found


def _models(params: object) -> list[Params]:
  return _all(params, Params)
