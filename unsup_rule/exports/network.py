"""A frozen network as plain arrays, layer by layer."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Plain:
  """x -> (x - mean) / scale, then layers nonlinearity(x W + b); float32 throughout.

  The mean is in two parts, whose sum has more digits than float32: x less the first, then less the
  second, is exact where x is near the mean.

  Attributes:
    mean: the first part, [n_0].
    rest: the second part.
    scale: [n_0].
    layers: (W [M, N], b [N]), from the bottom.
    nonlinearity: of all layers, a name in `unsup_rule.rule.mlp.NONLINEARITIES`.
    inputs: mean [n_0] and scale [] of the inputs beside all layers; None for the last layer alone.
  """

  mean: np.ndarray
  rest: np.ndarray
  scale: np.ndarray
  layers: Sequence[tuple[np.ndarray, np.ndarray]]
  nonlinearity: str
  inputs: tuple[np.ndarray, np.ndarray] | None

  @property
  def n_outputs(self) -> int:
    """How many numbers it gives for a row."""
    widths = [len(b_N) for _, b_N in self.layers]
    return widths[-1] if self.inputs is None else len(self.mean) + sum(widths)

  @classmethod
  def of(
    cls,
    mean: np.ndarray,
    scale: np.ndarray,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    nonlinearity: str,
    inputs: tuple[np.ndarray, np.ndarray] | None,
  ) -> "Plain":
    """With the mean, float64, cut in two."""
    first = np.asarray(mean, np.float32)
    rest = np.asarray(mean - first, np.float32)
    return cls(first, rest, np.asarray(scale, np.float32), layers, nonlinearity, inputs)
