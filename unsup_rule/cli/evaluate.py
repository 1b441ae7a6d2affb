"""`unsup-rule evaluate`: measures a rule and its baselines, writes tables, figures and a report."""

import argparse
import hashlib
import pathlib
import sys

from unsup_rule.cli import gin_flags
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import lock


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  gin_flags.add_arguments(
    parser, "evaluate.seeds=20", "gin file of a suite, such as gin/evaluation/smoke.gin"
  )
  parser.add_argument(
    "--out",
    required=True,
    type=pathlib.Path,
    metavar="DIR",
    help="folder for results; one that holds some already goes on with them",
  )
  parser.add_argument(
    "--rule",
    type=pathlib.Path,
    metavar="FOLDER",
    help="folder of a run or of import-tf, with rule.npz; without it only the "
    "baselines are measured",
  )


def run(arguments: argparse.Namespace) -> int:
  """Measures what is missing and writes the report; 1 if a cell failed.

  Raises:
    UnsupRuleError: bad configuration, rule, data or results.
  """
  if not arguments.config_file and not arguments.gin_bindings:
    raise UnsupRuleError("nothing to evaluate; give a gin file with --config_file")
  with lock.exclusive(arguments.out, "--out", "evaluates"):
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
  from unsup_rule.evaluation import provenance, report, runner, store, suite
  from unsup_rule.meta import gin_files, run_folder

  imports = ["unsup_rule.evaluation.suite", *arguments.gin_import]
  text = gin_files.parse(arguments.config_file, arguments.gin_bindings, imports)
  wanted = suite.Suite()
  rule, theta_sha256 = None, ""
  if arguments.rule is not None:
    rule, theta_sha256 = provenance.load_rule(arguments.rule)
  cells = wanted.cells(rule, theta_sha256)
  results = store.Store(arguments.out)
  runner.check(cells)
  run_folder.write_config(arguments.out, text)
  origin = {
    "theta_sha256": theta_sha256,
    "gin_sha256": hashlib.sha256(text.encode()).hexdigest(),
    **provenance.environment(),
  }
  rows = runner.run(cells, results, arguments.out, origin)
  store.write_csv(arguments.out / "results.csv", rows)
  page = report.write(arguments.out, wanted, rows, text, arguments.rule)
  failed = sum(row["status"] != "ok" for row in rows)
  print(f"{page}: {len(rows) - failed} cells measured, {failed} failed")
  if failed:
    print(
      "unsup-rule: some cells failed; the report says why, and a rerun tries them again",
      file=sys.stderr,
    )
  return 1 if failed else 0
