"""`unsup-rule report`: a training run as one page to look at."""

import argparse
import pathlib

from unsup_rule.errors import UnsupRuleError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument(
    "folder", metavar="DIR", type=pathlib.Path, help="folder of a run of train or launch"
  )
  parser.add_argument(
    "--out", metavar="FILE", type=pathlib.Path, help="the page (default: report.html in the folder)"
  )


def run(arguments: argparse.Namespace) -> int:
  """Writes the page; returns the exit code.

  Raises:
    UnsupRuleError: the folder holds no run, its curve is damaged, or the page cannot be written.
  """
  if arguments.out is not None and arguments.out.suffix != ".html":
    raise UnsupRuleError(f"--out is {arguments.out}; give a file that ends in .html")
  from unsup_rule.evaluation import training_report

  out = arguments.out or arguments.folder / "report.html"
  training_report.write(arguments.folder, out)
  print(out)
  return 0
