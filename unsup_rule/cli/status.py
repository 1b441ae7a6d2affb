"""`unsup-rule status`: shows a run from its folder, also one on another machine that shares it."""

import argparse
import json
import pathlib

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument("folder", metavar="DIR", help="folder of a run that `launch` started")


def run(arguments: argparse.Namespace) -> int:
  """Prints the table; returns the exit code.

  Raises:
    UnsupRuleError: the folder holds no such run.
  """
  from unsup_rule.distributed import table

  folder = pathlib.Path(arguments.folder)
  found = sorted(folder.glob("status.json")) or sorted(folder.glob("member_*/status.json"))
  if not found and (folder / "params").exists():
    raise UnsupRuleError(f"{folder} holds no run of `unsup-rule launch`; try unsup-rule report")
  if not found:
    raise UnsupRuleError(
      f"no run of `unsup-rule launch` in {folder}; give the folder of its --train_log_dir"
    )
  for path in found:
    try:
      report = json.loads(reading.text(path))
      text = f"{path.parent}, {table.age(report)}\n{table.render(report)}"
    except storage.DAMAGE as error:
      raise UnsupRuleError(f"cannot read {path}: {error!r}; is it of a run of launch?") from error
    print(text)
  return 0
