"""Measurements of theta while it is trained."""

from learned_optimization.learned_optimizers import base as lopt_base

from unsup_rule.meta import progress
from unsup_rule.meta.options import TrainerOptions, measured

_WORSE = 3.0  # Standard errors below the best from which on a measurement is worth a warning.


class Validation:
  """Calls `trainer.validation_fn` every so many steps, and warns where theta gets worse.

  Attributes:
    best: the highest accuracy so far, or None.
  """

  def __init__(self, options: TrainerOptions, best: float | None = None):
    self._options = options
    self.best = best

  def after(
    self, step: int, lopt: lopt_base.LearnedOptimizer, theta: lopt_base.MetaParams
  ) -> dict[str, float]:
    """The accuracy after an outer step as {"validation": ..}; {} where it is not measured.

    Raises:
      UnsupRuleError: the function returns no accuracy.
    """
    measure = self._options.validation_fn
    if measure is None or step % self._options.validation_every_steps:
      return {}
    found = measured("validation_fn", measure, lopt, theta)
    accuracy, error = found["accuracy"], found["standard_error"]
    warning = ""
    if self.best is not None and accuracy < self.best - _WORSE * error:
      warning = f"; it was {self.best:.3f}: a smaller outer step size may help"
    progress.say(f"\nstep {step}: validation {accuracy:.3f} (standard error {error:.3f}){warning}")
    self.best = accuracy if self.best is None else max(accuracy, self.best)
    return {"validation": accuracy}
