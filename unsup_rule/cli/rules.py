"""`unsup-rule rules`: the rules that come with the package, and their model cards."""

import argparse
import re

from unsup_rule.errors import UnsupRuleError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the argument."""
  parser.add_argument(
    "name", nargs="?", metavar="NAME", help="print the card of this rule, or of a .npz file"
  )


def run(arguments: argparse.Namespace) -> int:
  """Prints a line for each rule, or one card; returns the exit code.

  Raises:
    UnsupRuleError: there is no such rule, or no card beside its file.
  """
  from unsup_rule.weights.pretrained import DEFAULT, names, pretrained

  if arguments.name is not None:
    rule = pretrained(arguments.name)
    if not rule.card:
      raise UnsupRuleError(
        f"{arguments.name} has no card beside it; unsup-rule export writes a rule with one"
      )
    print(rule.card, end="")
    return 0
  shown = {name: f"{name} (default)" if name == DEFAULT else name for name in names()}
  width = max(map(len, shown.values()))
  for name, label in shown.items():
    print(f"{label:{width}}  {_line(pretrained(name).card)}")
  return 0


def _line(card: str) -> str:
  """What a card says first, below its title, up to the first stop, colon or semicolon."""
  _, about, *_ = card.split("\n\n")
  return re.split(r"[.:;](?:\s|$)", about)[0]
