"""What is to be measured, told by names alone, so that another process can read it too."""

import dataclasses
import os
import pathlib

from unsup_rule.evaluation.provenance import load_rule
from unsup_rule.evaluation.suite import Cell, Suite
from unsup_rule.meta import gin_files


@dataclasses.dataclass(frozen=True)
class Plan:
  """A suite and the rules that it measures.

  Attributes:
    config_files, bindings, imports: of gin.
    rule: name or path of the rule, or None.
    against: name or path of another rule to compare it with, or None.
  """

  config_files: tuple[str, ...]
  bindings: tuple[str, ...]
  imports: tuple[str, ...] = ()
  rule: str | os.PathLike | None = None
  against: str | os.PathLike | None = None


@dataclasses.dataclass(frozen=True)
class Work:
  """A plan that was read.

  Attributes:
    suite: what the gin files ask for.
    text: of the configuration.
    cells: all that is to be measured, those of `against` last.
    theta_sha256: of the rule, or "".
    against_sha256: of the other rule, or "".
  """

  suite: Suite
  text: str
  cells: list[Cell]
  theta_sha256: str
  against_sha256: str


def read(plan: Plan) -> Work:
  """Reads gin files and rules.

  Raises:
    UnsupRuleError: bad configuration or rule.
  """
  imports = ["unsup_rule.evaluation.suite", *plan.imports]
  text = gin_files.parse(plan.config_files, plan.bindings, imports)
  suite = Suite()
  rule, theta_sha256 = _loaded(plan.rule)
  other, against_sha256 = _loaded(plan.against)
  cells = {cell.key: cell for cell in suite.cells(rule, theta_sha256)}
  if other is not None:
    cells |= {c.key: c for c in suite.cells(other, against_sha256) if c.name == "rule"}
  return Work(suite, text, list(cells.values()), theta_sha256, against_sha256)


def _loaded(rule: str | os.PathLike | None):
  return (None, "") if rule is None else load_rule(rule)


def rule_name(rule: str | os.PathLike) -> str:
  """For people: the name of a shipped rule, or the end of a path that says which it is."""
  path = pathlib.Path(rule)
  return path.parent.name if path.name == "rule.npz" and path.parent.name else path.stem
