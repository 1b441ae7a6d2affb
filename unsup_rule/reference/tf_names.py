"""Names of the authors' TensorFlow program, and our trees (docs/rule.md, section 5)."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.structures import Params, Weights

THETA_PREFIX = "MoreLocalWeightUpdateProcess/"
BASE_PREFIX = "LocalWeightUpdateWLearner/LinearBatchNorm"
MOVING_STATISTICS = ("/moving_mean", "/moving_variance")  # unused by the rule
_LAYER = re.compile(re.escape(BASE_PREFIX) + r"(?:_(\d+))?/(linear/w|b)$")


def theta_from_tf(variables: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
  """TF variables (names without `:0`; others are ignored) to a theta of ours."""
  theta: dict[str, dict[str, np.ndarray]] = {}
  for name in sorted(variables):
    if name.startswith(THETA_PREFIX) and not name.endswith(MOVING_STATISTICS):
      module, _, leaf = name.removeprefix(THETA_PREFIX).rpartition("/")
      if leaf in ("w", "b", "beta"):
        theta.setdefault(module, {})[leaf] = np.asarray(variables[name], np.float32)
  return theta


def base_model_from_tf(
  variables: Mapping[str, np.ndarray], nonlinearity: str = "relu"
) -> tuple[MLP, Params]:
  """TF variables of the base model to an architecture and its {W, b, V}.

  Forward layers are numbered 0 .. L-1, backward matrices L .. 2L-1; biases of the latter exist
  there but are used nowhere.
  """
  found: dict[int, dict[str, jax.Array]] = {}
  for name, value in variables.items():
    match = _LAYER.match(name)
    if match:
      leaf = "w" if match[2] == "linear/w" else "b"
      found.setdefault(int(match[1] or 0), {})[leaf] = jnp.asarray(value, jnp.float32)
  n_layers = len(found) // 2
  if n_layers == 0 or sorted(found) != list(range(2 * n_layers)):
    raise UnsupRuleError(
      f"no complete base model under {BASE_PREFIX}*: found layers {sorted(found)}, "
      "expected 0 .. 2L-1"
    )
  layers = [
    Weights(found[i]["w"], found[i]["b"].reshape(-1), found[n_layers + i]["w"])
    for i in range(n_layers)
  ]
  sizes = [layers[0].w.shape[0]] + [layer.w.shape[1] for layer in layers]
  mlp = MLP(sizes[0], tuple(sizes[1:-1]), sizes[-1], nonlinearity)
  return mlp, Params.of_layers(layers)
