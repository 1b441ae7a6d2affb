"""What the folder of a run holds for its users, but for measurements.

config.gin  the configuration
params      theta, for the library: with config.gin its `opt_from_checkpoint` loads it
rule.npz    theta, what it needs to be applied, and its origin, where it is a rule alone
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

from learned_optimization.learned_optimizers import base as lopt_base

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, gin_values
from unsup_rule.meta.heldout import HeldOut
from unsup_rule.meta.options import TrainerOptions
from unsup_rule.meta.progress import say
from unsup_rule.meta.settings import Settings
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.tasks.sources import DatasetSpec
from unsup_rule.weights import run_folder
from unsup_rule.weights.archive import Archive, Use


def write_config(folder: str | pathlib.Path, text: str) -> None:
  """Writes `config.gin`, atomically."""
  storage.write_text(pathlib.Path(folder) / "config.gin", text)


def check_no_evaluation(folder: pathlib.Path) -> None:
  """Refuses a folder of `evaluate`, whose configuration a run would overwrite.

  Raises:
    UnsupRuleError: it is one.
  """
  if (folder / "results.jsonl").exists():
    raise UnsupRuleError(f"{folder} holds an evaluation; choose another --train_log_dir")


def check_no_run(folder: pathlib.Path) -> None:
  """Refuses a folder of a run, whose configuration an evaluation would overwrite.

  Raises:
    UnsupRuleError: it is one.
  """
  if (folder / "params").exists():
    raise UnsupRuleError(f"{folder} holds a run; choose another --out")


def tell_changes(folder: pathlib.Path, text: str) -> None:
  """Says what a run that goes on has bound otherwise than before, but for when it ends."""
  try:
    before = _bindings(reading.text(folder / "config.gin"))
  except (OSError, ValueError):  # It is there to be read; no run ends for it.
    return
  now = _bindings(text)
  changes = [
    f"{name} = {now.get(name, 'not bound')} (before: {before.get(name, 'not bound')})"
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name)
  ]
  if changes:
    say(f"other than before: {'; '.join(changes)}")


def _bindings(text: str) -> dict[str, str]:
  """Of a `config.gin`, which has one a line, without those that only say when a run ends."""
  lines = (line.partition(" = ") for line in text.splitlines() if not line.startswith("#"))
  ends = ("run_train.num_steps", "run_train.num_seconds")
  return {name: value for name, equals, value in lines if equals and name not in ends}


def write_theta(
  folder: str | pathlib.Path, theta: lopt_base.MetaParams, step: int, settings: Settings
) -> None:
  """Writes `params`, and `rule.npz` where what is trained is the rule alone.

  Args:
    folder: of the run.
    theta: of the optimizer that is trained.
    step: outer steps so far.
    settings: of the run.
  """
  checkpoint.save_params(folder, theta, step)
  lopt = settings.run.lopt
  if isinstance(lopt, UnsupervisedRule) and lopt.inner_optimizer is None:
    origin = {
      "gin": settings.config_text,
      "data_sets": _names(gin_values.bound("task_distribution.sources", ())),
      "seed": settings.trainer.seed,
      "outer_steps": step,
    }
    run_folder.write(folder, Archive(theta, lopt.schedule, _use(settings.trainer), origin))


def write_rule(folder: str | pathlib.Path, rule: Archive) -> None:
  """Writes a folder as a run leaves it, for a rule that is there already.

  Raises:
    UnsupRuleError: the folder holds a theta, or cannot be written.
  """
  folder = pathlib.Path(folder)
  paths = [folder / name for name in ("params", "config.gin", "rule.npz")]
  for path in paths:
    if os.path.lexists(path):
      raise UnsupRuleError(f"{path} exists already; choose another folder")
  values = dataclasses.asdict(rule.sizes) | dataclasses.asdict(rule.schedule)
  lines = [f"UnsupervisedRule.{key} = {value!r}" for key, value in values.items()]
  lines = ["import unsup_rule.plugin.rule", *lines, "run_train.lopt = @UnsupervisedRule()", ""]
  try:
    write_config(folder, "\n".join(lines))
    checkpoint.save_params(folder, rule.theta, step=rule.provenance.get("outer_steps") or 0)
    run_folder.write(folder, rule)
  except BaseException:
    for path in paths:  # Else the same command would be refused once there is room.
      path.unlink(missing_ok=True)
    raise


def _use(trainer: TrainerOptions) -> Use:
  """As the run measures theta itself, where it does so by `HeldOut`."""
  for measure in (trainer.heldout_fn, trainer.validation_fn):
    if isinstance(measure, HeldOut):
      return Use(measure.inner_steps, measure.batch_size)
  return Use()


def _names(sources: object) -> list[str]:
  """Names of the data sets; none where the run draws its tasks otherwise."""
  if not isinstance(sources, Iterable) or isinstance(sources, str):
    return []
  try:
    return sorted({DatasetSpec.from_settings(source).name for source in sources})
  except UnsupRuleError:
    return []
