"""`unsup-rule train`: meta-trains what a gin file describes, through the library's `run_train`."""

import argparse
import functools
import pathlib
import re
import tempfile

from unsup_rule.cli import gin_flags
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import lock


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags, named as in the library's own entry points."""
  parser.add_argument(
    "--train_log_dir",
    required=True,
    metavar="DIR",
    help="folder of the run; one that holds a run already goes on with it",
  )
  gin_flags.add_arguments(parser, "run_train.num_steps=100")


def run(arguments: argparse.Namespace) -> int:
  """Trains; returns the exit code.

  Raises:
    UnsupRuleError: bad configuration, a folder that cannot be written, or training that failed.
  """
  folder = pathlib.Path(arguments.train_log_dir)
  if not arguments.config_file and not arguments.gin_bindings:
    raise UnsupRuleError("nothing to train; give a gin file with --config_file")
  # Before the slow imports, so that a folder that cannot be written shows at once.
  with lock.exclusive(folder):
    pass
  from learned_optimization import outer_train

  from unsup_rule.machine import cores
  from unsup_rule.meta import gin_files, heldout, library, summary
  from unsup_rule.meta import loop as trainer

  text = gin_files.parse(arguments.config_file, arguments.gin_bindings, arguments.gin_import)
  tasks = [gin_files.bound(f"truncated_{kind}.num_tasks") for kind in ("grad", "pes", "es")]
  cores.as_devices(at_most=max((n for n in tasks if isinstance(n, int)), default=1))
  heldout.check_configuration()
  for role in ("run_train.is_trainer", "run_train.is_worker"):
    if not gin_files.bound(role, default=True):
      raise UnsupRuleError(f"{role} is False, but train does both in one process; remove it")
  local_train = functools.partial(trainer.local_train, config_text=text)

  def train_there(train_log_dir: str, **keywords) -> None:
    del train_log_dir
    local_train(str(folder), **keywords)

  # run_train writes its own gin_files.gin, in place: not where a crash could leave half of one.
  with tempfile.TemporaryDirectory() as elsewhere, library.running_trainer(train_there):
    try:
      outer_train.run_train(train_log_dir=elsewhere)
    except (RuntimeError, TypeError) as error:
      missing = _unbound(str(error))
      if missing:
        raise UnsupRuleError(f"gin: {missing}; add it to the gin file") from error
      raise
  print(summary.describe(folder))
  return 0


def _unbound(message: str) -> str | None:
  """Returns which value a configurable lacks, where `message` is one of gin's about that."""
  if found := re.match(r"Required bindings for `(\S+)` not provided in config: \[(.*)\]", message):
    return f"{found[1]} needs a value for {found[2]}"
  found = re.search(
    r"missing \d+ required .*argument.*\n  No values supplied by Gin or caller for arguments: "
    r"\[(.*)\][\s\S]*?In call to configurable '(\S+)'",
    message,
  )
  return f"{found[2]} needs a value for {found[1]}" if found else None
