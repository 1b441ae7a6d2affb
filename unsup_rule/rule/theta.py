"""The sizes of the rule, and the table of its parameters theta (docs/rule.md, 2 and 5).

theta is {"module": {"w", "b" or "beta"}} under the names of the authors' program, so that their
checkpoints and ours hold the same tree.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from unsup_rule.errors import UnsupRuleError

Theta = dict[str, dict[str, jax.Array]]
Shaped = jax.Array | np.ndarray | jax.ShapeDtypeStruct
Leaf = TypeVar("Leaf", bound=Shaped)

N_WEIGHT_STATISTICS = 8  # four of W_bot, four of W_top (4.2 b)
N_FEATURES = 4  # x, z, sin, cos (4.2 a)
N_TERMS = 12  # of the weight change (4.4), beside those that are added

# Sizes that may be 0.
_MAY_BE_NONE = ("top_delta_layers", "compute_h_layers", "partners")

# (name, bottom readout exists) in the order of section 4.4.
READOUTS = (
  ("weight_readout_0", True),
  ("weight_readout_rbf", True),
  ("weight_readout_1", True),
  ("lin_upper_symm", True),
  ("lin_upper_psd", False),
  ("lin_lower_symm", True),
  ("sqr_upper_symm", True),
  ("sqr_lower_symm", True),
)

# Of theta's modules, after "forward" or "backward": those that hold the mixing coefficients.
COEFFICIENTS = "_weight_readout_coeffs"
INITIAL_COEFFICIENT = 0.1


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Every size of the rule; the defaults are the paper's (114,670 parameters).

  Attributes:
    output_size: n_L, the width of the embedding that theta is tied to.
    top_delta_size: C_t, channels of the top network.
    top_delta_layers: its convolutions over the batch after the two over units.
    compute_h_size: C, channels of the per-layer network.
    compute_h_layers: its blocks after the first.
    delta_dim: D, channels of the delta signal.
    num_grad_channels: G, channels of a low-rank readout.
    identical_updates: whether V receives the very change of W; otherwise it has readouts of its
      own.
    partners: number of other examples whose activities units are shown beside each one's (4.20).
    redundancy: whether there is a thirteenth term, against correlated units (4.21).

  Raises:
    UnsupRuleError: names the size that is no whole number, or below the least there can be.
  """

  output_size: int = 32
  top_delta_size: int = 64
  top_delta_layers: int = 2
  compute_h_size: int = 64
  compute_h_layers: int = 1
  delta_dim: int = 32
  num_grad_channels: int = 4
  identical_updates: bool = True
  partners: int = 0
  redundancy: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value, least = getattr(self, field.name), 0 if field.name in _MAY_BE_NONE else 1
      whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
      if field.type is int and not (whole and value >= least):
        raise UnsupRuleError(
          f"UnsupervisedRule.{field.name} is {value!r}; give a whole number from {least} up"
        )
      if field.type is bool and not isinstance(value, bool):
        raise UnsupRuleError(f"UnsupervisedRule.{field.name} is {value!r}; give True or False")

  @property
  def n_features(self) -> int:
    """Features of a unit and an example beside the delta (4.2 a)."""
    return N_FEATURES + 2 * self.partners

  @property
  def n_terms(self) -> int:
    """Terms of the weight change, each with a mixing coefficient."""
    return N_TERMS + self.redundancy

  @property
  def directions(self) -> tuple[str, ...]:
    """Which matrices have readouts of their own."""
    return ("forward",) if self.identical_updates else ("forward", "backward")


def numbered(name: str, index: int) -> str:
  """Sonnet's numbering: conv_1d, conv_1d_1, conv_1d_2, ..."""
  return name if index == 0 else f"{name}_{index}"


def _convolutions(sizes: Sizes) -> Iterator[tuple[str, tuple[int, int, int]]]:
  c_top, c_h, d, n = sizes.top_delta_size, sizes.compute_h_size, sizes.delta_dim, sizes.output_size
  top = [(5, 1 + sizes.partners, c_top), (3, n, n), (3, n, n)]
  top += [(3, c_top, c_top)] * sizes.top_delta_layers + [(3, c_top, d)]
  for index, shape in enumerate(top):
    yield f"compute_top_delta/{numbered('conv_1d', index)}", shape
  for index in range(1 + sizes.compute_h_layers):
    c_in = N_WEIGHT_STATISTICS + 1 + sizes.n_features + d if index == 0 else c_h
    yield numbered("conv_1d", index), (3, c_in, c_h)
    for inner in range(2):
      unit_conv = numbered("ConcatUnitConv", index)
      yield f"{unit_conv}/{numbered('conv_1d', inner)}", (3, c_h, c_h)


def _batch_norms(sizes: Sizes) -> Iterator[tuple[str, int]]:
  top = [sizes.top_delta_size] + [sizes.output_size] * 2
  top += [sizes.top_delta_size] * sizes.top_delta_layers
  for index, channels in enumerate(top):
    yield f"compute_top_delta/{numbered('batch_norm', index)}", channels
  yield "batch_norm", sizes.n_features + sizes.delta_dim
  for index in range(1 + sizes.compute_h_layers):
    yield numbered("batch_norm", 1 + index), sizes.compute_h_size
    for inner in range(2):
      unit_conv = numbered("ConcatUnitConv", index)
      yield f"{unit_conv}/{numbered('batch_norm', inner)}", sizes.compute_h_size


def _linears(sizes: Sizes) -> Iterator[tuple[str, tuple[int, int]]]:
  c_h = sizes.compute_h_size
  yield "linear", (c_h, sizes.delta_dim)
  for direction in sizes.directions:
    for name, has_bottom in READOUTS:
      yield f"{direction}{name}_top/linear", (c_h, sizes.num_grad_channels)
      if has_bottom:
        yield f"{direction}{name}_bottom/linear", (c_h, sizes.num_grad_channels)
  yield "bias_readout", (c_h, 1)


class Spec(NamedTuple):
  """One array of theta; initially mean + deviation * a normal number cut at two deviations."""

  shape: tuple[int, ...]
  deviation: float = 0.0
  mean: float = 0.0


def specs(sizes: Sizes) -> dict[str, Spec]:
  """Every array of theta, float32, by "module/leaf"; drawn in this order.

  Weights have a deviation of 1/sqrt(fan_in); biases and offsets are 0, mixing coefficients 0.1.
  """
  table: dict[str, Spec] = {}

  def weights(module: str, shape: tuple[int, ...]) -> None:
    table[f"{module}/w"] = Spec(shape, deviation=1 / math.sqrt(math.prod(shape[:-1])))
    table[f"{module}/b"] = Spec(shape[-1:])

  for module, shape in _convolutions(sizes):
    weights(module, shape)
  for module, channels in _batch_norms(sizes):
    table[f"{module}/beta"] = Spec((1, 1, channels))
  for module, shape in _linears(sizes):
    weights(module, shape)
  for direction in sizes.directions:
    module = f"{direction}{COEFFICIENTS}"
    table[f"{module}/w"] = Spec((sizes.n_terms, 1), mean=INITIAL_COEFFICIENT)
    table[f"{module}/b"] = Spec((1,))
  return table


def abstract(sizes: Sizes) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and type of every array of theta, by "module/leaf"."""
  return {name: jax.ShapeDtypeStruct(spec.shape, np.float32) for name, spec in specs(sizes).items()}


def nested(arrays: Mapping[str, Leaf]) -> dict[str, dict[str, Leaf]]:
  """{module: {leaf: ..}} from {"module/leaf": ..}."""
  tree: dict[str, dict[str, Leaf]] = {}
  for name, array in arrays.items():
    module, _, leaf = name.rpartition("/")
    tree.setdefault(module, {})[leaf] = array
  return tree


def sizes_of(theta: Mapping[str, Mapping[str, Shaped]]) -> Sizes:
  """Reads the sizes back from the shapes of a theta; the inverse of `specs`."""

  def count(prefix: str) -> int:
    return sum(
      name.rpartition("/")[2].startswith("conv_1d")
      for name in theta
      if name.rpartition("/")[0] == prefix
    )

  return Sizes(
    output_size=theta["compute_top_delta/conv_1d_1"]["w"].shape[-1],
    top_delta_size=theta["compute_top_delta/conv_1d"]["w"].shape[-1],
    top_delta_layers=count("compute_top_delta") - 4,
    compute_h_size=theta["conv_1d"]["w"].shape[-1],
    compute_h_layers=count("") - 1,
    delta_dim=theta["linear"]["w"].shape[-1],
    num_grad_channels=theta["forwardweight_readout_0_top/linear"]["w"].shape[-1],
    identical_updates=f"backward{COEFFICIENTS}" not in theta,
    partners=theta["compute_top_delta/conv_1d"]["w"].shape[1] - 1,
    redundancy=theta[f"forward{COEFFICIENTS}"]["w"].shape[0] > N_TERMS,
  )
