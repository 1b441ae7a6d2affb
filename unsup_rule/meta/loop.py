"""Single-machine meta-training that resumes exactly and always saves at the end."""

import contextlib
import pathlib
import time
from collections.abc import Iterator

from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import cores
from unsup_rule.meta import checkpoint, curve, heldout, lock, run_folder, summary, trees
from unsup_rule.meta.events import EventWriter
from unsup_rule.meta.progress import Progress, say
from unsup_rule.meta.settings import Settings
from unsup_rule.meta.signals import StopRequest
from unsup_rule.meta.training_run import MetaTrainingRun, StepReport
from unsup_rule.meta.validation import Validation


def train(folder: pathlib.Path, settings: Settings) -> None:
  """Meta-trains what `settings` says, from where the folder's checkpoint left off.

  A run that is complete returns at once, and goes on where `num_steps` has grown.

  Args:
    folder: gets checkpoints, `params`, `rule.npz`, `config.gin`, event files, curve and summary.
    settings: of the run.

  Raises:
    UnsupRuleError: the folder cannot be written or belongs to another configuration, or the
      meta-gradient was not finite too many times in a row.
    KeyboardInterrupt, SystemExit: a signal came; all is saved.
  """
  limits = settings.run
  with lock.exclusive(folder):
    run_folder.check_no_evaluation(folder)
    state = checkpoint.load_resumable(folder)
    seconds = state["seconds"] if state else 0.0

    def complete(step: int) -> bool:
      return step >= limits.num_steps or 0 < limits.num_seconds <= seconds

    run = MetaTrainingRun(settings)
    if state:
      where = f"the checkpoint of step {state['step']} in {folder}"
      run.check(state, where)
      run_folder.tell_changes(folder, settings.config_text)
      if complete(state["step"]) and summary.is_current(folder, state["step"]):
        return
    say(f"training on {cores.devices()}")
    validation = Validation(settings.trainer, state.get("best_validation") if state else None)
    if state:
      run.restore(state, where)
    else:
      run.start()
    heldout.check(settings.trainer, run.lopt, run.theta)
    # Before the first step too: a full disk shows now and not after an hour.
    _save(folder, run, validation, seconds)
    run_folder.write_config(folder, settings.config_text)
    with _reported(folder):
      if not complete(run.step):
        seconds = _Session(folder, run, settings, validation, seconds).train()
      curve.draw(folder, type(run.lopt).__name__)
      summary.write(
        folder,
        run.lopt,
        run.initial_theta(),
        run.theta,
        settings.trainer.heldout_fn,
        run.step,
        seconds,
        run.dropped,
      )


class _Session:
  """The loop, from one start of the program to its end."""

  def __init__(
    self,
    folder: pathlib.Path,
    run: MetaTrainingRun,
    settings: Settings,
    validation: Validation,
    seconds: float,
  ):
    self._folder = folder
    self._run = run
    self._validation = validation
    self._limits, self._options = settings.run, settings.trainer
    self._seconds_before = seconds
    self._started = time.monotonic()

  @property
  def _seconds(self) -> float:
    return self._seconds_before + time.monotonic() - self._started

  def train(self) -> float:
    """Takes outer steps until a limit or a signal; returns the seconds over all sessions."""
    run = self._run
    num_steps, num_seconds = self._limits.num_steps, self._limits.num_seconds
    with (
      contextlib.closing(EventWriter(self._folder, run.step + 1)) as events,
      contextlib.closing(curve.Curve(self._folder, run.step)) as rows,
      contextlib.closing(
        Progress(run.step, num_steps, self._seconds_before, num_seconds)
      ) as progress,
      StopRequest() as stop,
    ):
      saved = time.monotonic()
      while run.step < num_steps and not 0 < num_seconds <= self._seconds:
        began = time.monotonic()
        report = run.advance()
        self._record(events, rows, report, time.monotonic() - began)
        progress.update(run.step, report.loss, run.dropped)
        if time.monotonic() - saved >= self._options.checkpoint_every_seconds:
          _save(self._folder, run, self._validation, self._seconds)
          saved = time.monotonic()
        failed = run.worst.bad_in_a_row >= self._options.max_consecutive_nonfinite
        if failed or stop.signal_number is not None:
          break
      seconds = self._seconds
      _save(self._folder, run, self._validation, seconds)
      stop.raise_if_requested()
    if failed:
      raise UnsupRuleError(
        f"the meta-gradient of task family {run.worst.family_name} was not finite "
        f"{run.worst.bad_in_a_row} times in a row; theta of the last good step is in "
        f"{self._folder}; lower the outer or the inner learning rate, or clip the gradient"
      )
    return seconds

  def _record(
    self, events: EventWriter, rows: curve.Curve, report: StepReport, step_seconds: float
  ) -> None:
    run = self._run
    theta = run.theta
    measured = self._validation.after(run.step, run.lopt, theta)
    theta_mean_abs = trees.mean_abs(theta)
    rows.add(
      step=run.step,
      seconds=self._seconds,
      loss=report.loss,
      gradient_norm=report.gradient_norm,
      theta_mean_abs=theta_mean_abs,
      dropped=report.dropped,
      **measured,
      **{f"{curve.SOURCE_PREFIX}{name}": loss for name, loss in report.source_losses.items()},
      **curve.coefficients(theta),
    )
    values = {"meta_loss": report.loss, **measured}
    every = self._limits.summary_every_n
    if every and run.step % every == 0:
      for losses in (report.family_losses, report.source_losses):
        values |= {f"meta_loss/{name}": loss for name, loss in losses.items()}
      values |= {
        "gradient_norm": report.gradient_norm,
        "theta_mean_abs": theta_mean_abs,
        "steps_per_second": 1 / step_seconds,
        "dropped_gradients": run.dropped,
        "seconds": self._seconds,
      }
    events.scalars(run.step, values)


def _save(
  folder: pathlib.Path, run: MetaTrainingRun, validation: Validation, seconds: float
) -> None:
  around = {"seconds": seconds, "best_validation": validation.best, "device": cores.devices()}
  checkpoint.save_state(folder, run.step, run.to_state() | around)
  run_folder.write_theta(folder, run.theta, run.step, run.settings)


@contextlib.contextmanager
def _reported(folder: pathlib.Path) -> Iterator[None]:
  """Turns a full disk and its like into one line."""
  try:
    yield
  except OSError as error:
    raise UnsupRuleError(
      f"cannot write in {folder}: {error.strerror or error}; free space and "
      "start again: the run goes on from its last checkpoint"
    ) from error
