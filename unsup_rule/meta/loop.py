"""Single-machine meta-training that resumes exactly and always saves at the end.

It stands in for the loop of the library's `outer_train.local_train`, which reads its checkpoint and
then starts anew, saves no final one, and takes gradients that are not finite for zero.
"""

import contextlib
import pathlib
import time
from collections.abc import Iterator

from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, curve, library, lock, summary, trees
from unsup_rule.meta.events import EventWriter
from unsup_rule.meta.options import TrainerOptions
from unsup_rule.meta.outer_step import MetaTrainingRun, StepReport
from unsup_rule.meta.progress import Progress
from unsup_rule.meta.signals import StopRequest


def local_train(
  train_log_dir: str,
  lopt: lopt_base.LearnedOptimizer,
  outer_learner: gradient_learner.GradientLearner,
  sample_estimators: library.SampleEstimators,
  config_text: str,
  num_estimators: int = 2,
  summary_every_n: int = 10,
  num_steps: int = 10000,
  num_seconds: float = 0.0,
  stochastic_resample_frequency: int = 200,
) -> None:
  """Meta-trains `lopt`, from where the folder's checkpoint left off.

  The arguments are those of the library's function of this name; gin's `trainer` has more. A run
  that is complete returns at once, and goes on where `num_steps` has grown.

  Args:
    train_log_dir: gets checkpoints, `params`, `config.gin`, event files, the curve and the summary.
    lopt: the optimizer to meta-train.
    outer_learner: holds theta and updates it.
    sample_estimators: makes gradient estimators from a key.
    config_text: what to write to `config.gin`.
    num_estimators: estimators whose gradients are averaged in a step.
    summary_every_n: outer steps between TensorBoard entries other than the loss; 0 for none.
    num_steps: outer steps in all, over all sessions.
    num_seconds: limit of time over all sessions; 0 for none.
    stochastic_resample_frequency: outer steps, on average, until an estimator is replaced; 0 for
      never.

  Raises:
    UnsupRuleError: the folder cannot be written or belongs to another configuration, or the
      meta-gradient was not finite too many times in a row.
    KeyboardInterrupt, SystemExit: a signal came; all is saved.
  """
  options = TrainerOptions()
  folder = pathlib.Path(train_log_dir)
  with lock.exclusive(folder):
    state = checkpoint.load_state(folder)
    seconds = state["seconds"] if state else 0.0

    def complete(step: int) -> bool:
      return step >= num_steps or 0 < num_seconds <= seconds

    if state and complete(state["step"]) and summary.is_current(folder, state["step"]):
      return
    run = MetaTrainingRun(
      lopt,
      outer_learner,
      sample_estimators,
      num_estimators,
      stochastic_resample_frequency,
      options.seed,
    )
    if state:
      run.restore(state, f"the checkpoint of step {state['step']} in {folder}")
    elif (folder / "params").exists():
      raise UnsupRuleError(
        f"{folder} holds params but no checkpoint to go on from; choose another "
        "--train_log_dir so that they are not overwritten"
      )
    else:
      run.start()
    # Before the first step too: a full disk shows now and not after an hour.
    _save(folder, run, seconds)
    storage.write_text(folder / "config.gin", config_text)
    with _reported(folder):
      if not complete(run.step):
        seconds = _Session(folder, run, options, seconds, summary_every_n).train(
          num_steps, num_seconds
        )
      curve.draw(folder, type(lopt).__name__)
      summary.write(
        folder,
        lopt,
        run.initial_theta(),
        run.theta,
        options.heldout_fn,
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
    options: TrainerOptions,
    seconds: float,
    summary_every_n: int,
  ):
    self._folder = folder
    self._run = run
    self._options = options
    self._summary_every_n = summary_every_n
    self._seconds_before = seconds
    self._started = time.monotonic()

  @property
  def _seconds(self) -> float:
    return self._seconds_before + time.monotonic() - self._started

  def train(self, num_steps: int, num_seconds: float) -> float:
    """Takes outer steps until a limit or a signal; returns the seconds over all sessions."""
    run = self._run
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
          _save(self._folder, run, self._seconds)
          saved = time.monotonic()
        worst = max(run.slots, key=lambda slot: slot.bad_in_a_row)
        failed = worst.bad_in_a_row >= self._options.max_consecutive_nonfinite
        if failed or stop.signal_number is not None:
          break
      seconds = self._seconds
      _save(self._folder, run, seconds)
      stop.raise_if_requested()
    if failed:
      raise UnsupRuleError(
        f"the meta-gradient of task family {worst.family_name} was not finite "
        f"{worst.bad_in_a_row} times in a row; theta of the last good step is in {self._folder}; "
        "lower the outer or the inner learning rate, or clip the gradient"
      )
    return seconds

  def _record(
    self, events: EventWriter, rows: curve.Curve, report: StepReport, step_seconds: float
  ) -> None:
    run = self._run
    theta_mean_abs = trees.mean_abs(run.theta)
    rows.add(
      step=run.step,
      seconds=self._seconds,
      loss=report.loss,
      gradient_norm=report.gradient_norm,
      theta_mean_abs=theta_mean_abs,
      dropped=report.dropped,
      **{f"{curve.SOURCE_PREFIX}{name}": loss for name, loss in report.source_losses.items()},
    )
    values = {"meta_loss": report.loss}
    if self._summary_every_n and run.step % self._summary_every_n == 0:
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


def _save(folder: pathlib.Path, run: MetaTrainingRun, seconds: float) -> None:
  checkpoint.save_state(folder, run.step, run.to_state() | {"seconds": seconds})
  checkpoint.save_params(folder, run.theta, run.step)


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
