"""What gin can set about the trainer itself, under the name `trainer`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gin

from unsup_rule.errors import UnsupRuleError

# (learned optimizer, theta) -> at least `accuracy` and `standard_error`.
HeldoutFn = Callable[[Any, Any], Mapping[str, float]]


@gin.configurable("trainer", module="unsup_rule")  # pyright: ignore[reportCallIssue]
@dataclasses.dataclass(frozen=True)
class TrainerOptions:
  """Options of `unsup_rule.meta.loop.local_train`.

  Attributes:
    seed: everything random in a run follows from it.
    checkpoint_every_seconds: a kill loses no more than the steps of this time.
    max_consecutive_nonfinite: so many meta-gradients of one estimator in a row that are not finite
      end the training.
    heldout_fn: measures a theta on data that meta-training never sees; called with the initial and
      with the final theta. None measures nothing.
  """

  seed: int = 0
  checkpoint_every_seconds: float = 30.0
  max_consecutive_nonfinite: int = 20
  heldout_fn: HeldoutFn | None = None

  def __post_init__(self):
    for name in ("checkpoint_every_seconds", "max_consecutive_nonfinite"):
      if getattr(self, name) <= 0:
        raise UnsupRuleError(f"trainer.{name} is {getattr(self, name)}; give a positive number")
