"""The command `unsup-rule`. Each subcommand is a module, imported only when it runs."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from unsup_rule.errors import UnsupRuleError

# name -> (module with `add_arguments(parser)` and `run(arguments) -> exit code`, help)
COMMANDS = {
  "train": ("unsup_rule.cli.train", "meta-train what a gin file describes"),
  "launch": ("unsup_rule.cli.launch", "meta-train with many processes, here or on a cluster"),
  "status": ("unsup_rule.cli.status", "show a run that launch started"),
  "describe": ("unsup_rule.cli.describe", "say and show what a gin file would sample"),
  "evaluate": ("unsup_rule.cli.evaluate", "measure a rule against baselines, with a report"),
  "verify": ("unsup_rule.cli.verify", "compare with a recording of the authors' program"),
  "export": ("unsup_rule.cli.export", "turn a run into one file to ship, or into a folder"),
  "bench": ("unsup_rule.cli.bench", "time the rule beside the limits of the machine"),
  "import-tf": ("unsup_rule.cli.import_tf", "turn the authors' TensorFlow weights into ours"),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a subcommand and returns its exit code: 2 for an error a user can act on."""
  argv = list(sys.argv[1:] if argv is None else argv)
  parser = argparse.ArgumentParser(
    prog="unsup-rule",
    description=(
      "Meta-trains and checks the unsupervised weight-update rule of Metz et al. (ICLR 2019)."
    ),
  )
  subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Of TensorFlow and XLA, when they load.
  try:
    for name, (module, help_text) in COMMANDS.items():
      subparser = subparsers.add_parser(name, help=help_text, description=help_text)
      if name in argv[:1]:
        importlib.import_module(module).add_arguments(subparser)
    arguments = parser.parse_args(argv)
    compilation = importlib.import_module("unsup_rule.machine.compilation")
    compilation.quickly_on_gpus()
    if arguments.command != "bench":  # It measures compilation.
      compilation.cache_on_disk()
    return importlib.import_module(COMMANDS[arguments.command][0]).run(arguments)
  except UnsupRuleError as error:
    # Gin adds lines on where it was called from to whatever passes through it.
    print(f"unsup-rule: error: {str(error).splitlines()[0]}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130
