"""`unsup-rule evaluate`: measures a rule and its baselines, writes tables, figures and a report."""

import argparse
import hashlib
import pathlib
import sys
from typing import TYPE_CHECKING

from unsup_rule import storage
from unsup_rule.cli import gin_flags
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import cores
from unsup_rule.meta import lock
from unsup_rule.weights.pretrained import DEFAULT

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
    "rule (default: the one that `unsup_rule.pretrained` gives); none measures baselines alone",
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
    "--table",
    action="append",
    default=[],
    type=pathlib.Path,
    metavar="FILE",
    help="also put the short table between <!-- results --> and <!-- /results --> of a page, such "
    "as README.md (repeatable)",
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
  arguments.rule = {None: DEFAULT, "none": None}.get(arguments.rule, arguments.rule)
  if arguments.against is not None and arguments.rule is None:
    raise UnsupRuleError("--against compares a rule with another; give the rule with --rule")
  if arguments.processes is not None and arguments.processes < 0:
    raise UnsupRuleError(f"--processes is {arguments.processes}; give 1 or more, or 0 for none")
  if arguments.page is not None and (
    not str(arguments.page).endswith(".md") or arguments.page.is_dir()
  ):
    raise UnsupRuleError(f"--page is {arguments.page}; give a file that ends in .md")
  if arguments.out is None:
    name = pathlib.Path(arguments.config_file[-1]).stem if arguments.config_file else "bindings"
    arguments.out = pathlib.Path("evaluations", name)
  if arguments.page is not None and arguments.page.resolve().parent == arguments.out.resolve():
    raise UnsupRuleError(f"--page is {arguments.page}; give one outside of --out")
  with lock.exclusive(arguments.out, "--out", "evaluates"):
    return _run(arguments)


def _planned(arguments: argparse.Namespace) -> "tuple[Plan, Work]":
  """What is to be measured; what is wrong with it shows before anything is measured or written."""
  from unsup_rule.evaluation import plan, report, runner
  from unsup_rule.meta import run_folder

  asked = plan.Plan(
    tuple(arguments.config_file),
    tuple(arguments.gin_bindings),
    tuple(arguments.gin_import),
    arguments.rule,
    arguments.against,
  )
  run_folder.check_no_run(arguments.out)
  for page in arguments.table:
    report.check_table(page)
  work = plan.read(asked)
  if asked.against is not None and not work.suite.score:
    raise UnsupRuleError(
      "--against compares by a number, which this suite has none of; set evaluate.score = True"
    )
  runner.check(work.cells)
  return asked, work


def _run(arguments: argparse.Namespace) -> int:
  from unsup_rule.evaluation import provenance, report, runner, store
  from unsup_rule.meta import run_folder

  asked, work = _planned(arguments)
  results = store.Store(arguments.out)
  run_folder.write_config(arguments.out, work.text)
  origin = {
    "gin_sha256": hashlib.sha256(work.text.encode()).hexdigest(),
    **provenance.environment(),
  }
  count = cores.available() if arguments.processes is None else arguments.processes
  rows = runner.run(work.cells, results, arguments.out, origin, asked, count)
  store.write_csv(arguments.out / "results.csv", rows)
  by_key = {row["key"]: row for row in rows}
  own = [by_key[cell.key] for cell in work.own]
  if work.suite.score:
    against = [by_key[cell.key] for cell in work.against]
    page = arguments.out / "scores.txt"
    storage.write_text(page, _scores(own, against, asked) + "\n")
    print(page.read_text(), end="")
  else:
    page = report.write(arguments.out, work.suite, own, work.text, arguments.rule)
    if arguments.page is not None:
      report.copy_page(arguments.out, arguments.page)
    for other in arguments.table:
      report.copy_table(arguments.out, other)
  failed = sum(row["status"] != "ok" for row in rows)
  print(f"{page}: {len(rows) - failed} cells measured, {failed} failed")
  if failed:
    print(
      "unsup-rule: some cells failed; the report says why, and a rerun tries them again",
      file=sys.stderr,
    )
  return 1 if failed else 0


def _scores(own: "list[Row]", against: "list[Row]", asked: "Plan") -> str:
  """The table of the rule, the other rule and the baselines, ending in one number."""
  from unsup_rule.evaluation import plan, scores
  from unsup_rule.evaluation.methods import RULES
  from unsup_rule.evaluation.methods.rule import Rule

  named: dict[str, list[Row]] = {}
  for method, of in RULES.items():
    more = of.label.removeprefix(Rule.label)
    mine, other = ([row for row in rows if row["method"] == method] for rows in (own, against))
    if mine and asked.rule is not None:
      named[plan.rule_name(asked.rule) + more] = mine
    if other and asked.against is not None:
      name = plan.rule_name(asked.against) + more
      named[name if name not in named else f"{name} (against)"] = other
  for row in own:
    if row["method"] not in RULES:
      named.setdefault(row["label"], []).append(row)
  lines = scores.scores(
    {name: [row for row in rows if row["status"] == "ok"] for name, rows in named.items()}
  )
  return scores.table(lines) if lines else "no problem on which all methods were measured"
