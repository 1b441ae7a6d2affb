"""What is to be measured, told by names alone, so that another process can read it too."""

import dataclasses
import os
import pathlib

import gin

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods import RULES
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
    own: cells of the report: the rule and its rivals.
    against: cells of the other rule; none without one.
  """

  suite: Suite
  text: str
  own: list[Cell]
  against: list[Cell]

  @property
  def cells(self) -> list[Cell]:
    """All that is to be measured, each once; two rules may be one and the same."""
    return list({cell.key: cell for cell in (*self.own, *self.against)}.values())


def read(plan: Plan) -> Work:
  """Reads gin files and rules.

  Raises:
    UnsupRuleError: bad configuration or rule.
  """
  imports = ["unsup_rule.evaluation.suite", *plan.imports]
  text = gin_files.parse(plan.config_files, plan.bindings, imports)
  if not gin.get_bindings("evaluate", resolve_references=False):
    raise UnsupRuleError(
      "the configuration says nothing of evaluate; give a gin file of gin/evaluation"
    )
  suite = Suite()
  rule, theta_sha256 = _loaded(plan.rule)
  other, against_sha256 = _loaded(plan.against)
  against = [] if other is None else suite.cells(other, against_sha256)
  own = suite.cells(rule, theta_sha256)
  return Work(suite, text, own, [cell for cell in against if cell.name in RULES])


def _loaded(rule: str | os.PathLike | None):
  return (None, "") if rule is None else load_rule(rule)


def rule_name(rule: str | os.PathLike) -> str:
  """For people: the name of a shipped rule, or the end of a path that says which it is."""
  path = pathlib.Path(rule)
  return path.parent.name if path.name == "rule.npz" and path.parent.name else path.stem
