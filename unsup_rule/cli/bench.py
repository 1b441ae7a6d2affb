"""`unsup-rule bench`: runs `benchmarks/timings.py` of the checkout that the package is in."""

import argparse
import importlib
import pathlib
import sys
from types import ModuleType

from unsup_rule.errors import UnsupRuleError

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the benchmark."""
  _timings().add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
  """Prints a table, writes the rows as JSON, and returns the exit code."""
  return _timings().run(arguments)


def _timings() -> ModuleType:
  """The benchmark's module.

  Raises:
    UnsupRuleError: the package is installed without it.
  """
  if not (_CHECKOUT / "benchmarks" / "timings.py").is_file():
    raise UnsupRuleError(
      f"no benchmarks/timings.py in {_CHECKOUT}, for installed packages come without benchmarks; "
      "run bench from a checkout"
    )
  if str(_CHECKOUT) not in sys.path:
    sys.path.insert(0, str(_CHECKOUT))
  return importlib.import_module("benchmarks.timings")
