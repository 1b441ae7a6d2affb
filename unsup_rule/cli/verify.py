"""`unsup-rule verify TRACE.npz`: compares this package with a recording of the authors' program."""

import argparse
import pathlib
import zipfile

import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.reference import trace
from unsup_rule.rule.theta import Theta


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Arguments of `verify`."""
  parser.add_argument("trace", type=pathlib.Path, help="an .npz recording of the authors' program")
  parser.add_argument(
    "--theta", type=pathlib.Path, help="folder with params to use in place of the trace's own theta"
  )
  parser.add_argument(
    "--base",
    type=pathlib.Path,
    help="for a *_grads.npz: the trace it belongs to (default: the same name without _grads)",
  )
  parser.add_argument("--no_jit", action="store_true", help="run operation by operation")


def run(arguments: argparse.Namespace) -> int:
  """Prints the largest error of each group; 0 if all are within tolerance, else 1."""
  expected = read_arrays(arguments.trace)
  jit = not arguments.no_jit
  if "features_train" in expected:
    actual = trace.recompute_probe(expected, jit)
  elif "J" in expected:
    name = arguments.trace.name.replace("_grads", "")
    base = read_arrays(arguments.base or arguments.trace.with_name(name))
    actual = trace.recompute_gradient(expected, base, _theta(arguments.theta, base), jit)
  else:
    actual = trace.recompute_update(expected, _theta(arguments.theta, expected), jit)
  missing = [key for key in expected if not trace.is_input(key) and key not in actual]

  print(f"{'group':14} {'arrays':>6} {'largest error':>14} {'allowed':>10}  worst array")
  comparisons = trace.compare(expected, actual)
  for c in comparisons:
    verdict = "" if c.passed else "  FAILED"
    print(f"{c.group:14} {c.n_arrays:6d} {c.error:14.2e} {c.tolerance:10.1e}  {c.worst}{verdict}")
  if missing:
    print(f"not computed by this package: {', '.join(missing[:5])} ({len(missing)} arrays)  FAILED")
  return 0 if comparisons and not missing and all(c.passed for c in comparisons) else 1


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of an .npz, with errors that name the file."""
  if not path.is_file():
    raise UnsupRuleError(f"{path}: no such file; give the path of an .npz trace")
  try:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
      return {key: stored[key] for key in stored.files}
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise UnsupRuleError(f"{path} is not a readable .npz ({error}); copy it again") from error


def _theta(folder: pathlib.Path | None, recording: dict[str, np.ndarray]) -> Theta | None:
  if folder is None:
    return None
  from unsup_rule.meta.checkpoint import load_theta

  return load_theta(folder, trace.read_case(recording).theta)
