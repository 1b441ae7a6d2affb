"""`unsup-rule evaluate`: measures a rule and its baselines, writes tables, figures and a report."""

import argparse
import hashlib
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from unsup_rule.cli import gin_flags
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import cores
from unsup_rule.meta import lock

if TYPE_CHECKING:
  from unsup_rule.evaluation.plan import Plan, Work
  from unsup_rule.evaluation.store import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  gin_flags.add_arguments(
    parser, "evaluate.seeds=20", "gin file of a suite, such as gin/evaluation/smoke.gin"
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    metavar="DIR",
    help="folder for results; one that holds some already goes on with them (default: "
    "evaluations/ and the name of the gin file)",
  )
  parser.add_argument(
    "--rule",
    metavar="RULE",
    help="folder of a run or of import-tf with rule.npz, a .npz file, or the name of a shipped "
    "rule; without it only the baselines are measured",
  )
  parser.add_argument(
    "--against", metavar="RULE", help="another rule, to compare with on the same draws"
  )
  parser.add_argument(
    "--page",
    type=pathlib.Path,
    metavar="FILE",
    help="also write the report there in Markdown, such as docs/results.md, its figures beside it",
  )
  parser.add_argument(
    "--processes",
    type=int,
    metavar="N",
    help="processes of one core each (default: as many as there are cores); the numbers do not "
    "depend on it. 0 measures in this process, with all cores",
  )


def run(arguments: argparse.Namespace) -> int:
  """Measures what is missing and writes the report; 1 if a cell failed.

  Raises:
    UnsupRuleError: bad configuration, rule, data or results.
  """
  if not arguments.config_file and not arguments.gin_bindings:
    raise UnsupRuleError("nothing to evaluate; give a gin file with --config_file")
  if arguments.against is not None and arguments.rule is None:
    raise UnsupRuleError("--against compares a rule with another; give the rule with --rule")
  if arguments.processes is not None and arguments.processes < 0:
    raise UnsupRuleError(f"--processes is {arguments.processes}; give 1 or more, or 0 for none")
  if arguments.out is None:
    name = pathlib.Path(arguments.config_file[-1]).stem if arguments.config_file else "bindings"
    arguments.out = pathlib.Path("evaluations", name)
  with lock.exclusive(arguments.out, "--out", "evaluates"):
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
  from unsup_rule.evaluation import plan, provenance, report, runner, store
  from unsup_rule.meta import run_folder

  asked = plan.Plan(
    tuple(arguments.config_file),
    tuple(arguments.gin_bindings),
    tuple(arguments.gin_import),
    arguments.rule,
    arguments.against,
  )
  work = plan.read(asked)
  results = store.Store(arguments.out)
  runner.check(work.cells)
  run_folder.write_config(arguments.out, work.text)
  origin = {
    "gin_sha256": hashlib.sha256(work.text.encode()).hexdigest(),
    **provenance.environment(),
  }
  count = cores.available() if arguments.processes is None else arguments.processes
  rows = runner.run(work.cells, results, arguments.out, origin, asked, count)
  store.write_csv(arguments.out / "results.csv", rows)
  ours = [row for row in rows if row["identity"].get("theta") in (None, work.theta_sha256)]
  page = report.write(arguments.out, work.suite, ours, work.text, arguments.rule)
  if arguments.page is not None:
    report.copy_page(arguments.out, arguments.page)
  if work.suite.score:
    print(_scores(rows, work, asked))
  failed = sum(row["status"] != "ok" for row in rows)
  print(f"{page}: {len(rows) - failed} cells measured, {failed} failed")
  if failed:
    print(
      "unsup-rule: some cells failed; the report says why, and a rerun tries them again",
      file=sys.stderr,
    )
  return 1 if failed else 0


def _scores(rows: "list[Row]", work: "Work", asked: "Plan") -> str:
  """The table of the rule, the other rule and the baselines, ending in one number."""
  from unsup_rule.evaluation import plan, scores

  named: dict[str, list[Row]] = {}
  for rule, digest in ((asked.rule, work.theta_sha256), (asked.against, work.against_sha256)):
    if rule is not None:
      name = plan.rule_name(os.fspath(rule))
      found = [row for row in rows if row["identity"].get("theta") == digest]
      named[name if name not in named else f"{name} (against)"] = found
  for row in rows:
    if row["method"] != "rule":
      named.setdefault(row["label"], []).append(row)
  ok = {name: [row for row in of if row["status"] == "ok"] for name, of in named.items()}
  lines = scores.scores(ok)
  return scores.table(lines) if lines else "no problem on which all methods were measured"
