"""`unsup-rule train`: meta-trains what a gin file describes, in one process."""

import argparse
import pathlib
import sys

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
  from unsup_rule.machine import cores
  from unsup_rule.meta import estimators, gin_files, heldout, loop, progress, settings, summary

  text = gin_files.parse(arguments.config_file, arguments.gin_bindings, arguments.gin_import)
  cores.as_devices(at_most=estimators.most_groups())
  heldout.check_configuration()
  gin_flags.check_precision()
  loop.train(folder, settings.read(text, arguments.gin_import))
  progress.say(summary.describe(folder), sys.stdout)
  return 0
