"""`unsup-rule verify TRACE.npz`: compares this package with a recording of the authors' program."""

import argparse
import functools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from unsup_rule import storage
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
  expected, path, jit = read_arrays(arguments.trace), arguments.trace, not arguments.no_jit
  given = expected
  if "features_train" in expected:
    recompute = functools.partial(trace.recompute_probe, jit=jit)
  elif "J" in expected:
    path = arguments.base or path.with_name(path.name.replace("_grads", ""))
    given = read_arrays(path)
    recompute = functools.partial(trace.recompute_gradient, expected, jit=jit)
  else:
    recompute = functools.partial(trace.recompute_update, jit=jit)
  if arguments.theta is not None:
    given = trace.with_theta(given, _theta(arguments.theta, path, given))
  jax.devices()  # What it computes on must be there: else the recording would be blamed.
  try:
    actual, noise = trace.with_noise(recompute, given)
    comparisons = trace.compare(expected, actual, noise)
  except storage.DAMAGE as error:
    raise _no_recording(arguments.trace, error) from error
  missing = [key for key in expected if not trace.is_input(key) and key not in actual]
  return _report(comparisons, missing)


def _report(comparisons: Sequence[trace.Comparison], missing: Sequence[str]) -> int:
  print(f"{'group':14} {'arrays':>6} {'largest error':>14} {'allowed':>10}  worst array")
  for c in comparisons:
    verdict = "" if c.passed else "  FAILED"
    print(f"{c.group:14} {c.n_arrays:6d} {c.error:14.2e} {c.tolerance:10.1e}  {c.worst}{verdict}")
  if missing:
    print(f"not computed by this package: {', '.join(missing[:5])} ({len(missing)} arrays)  FAILED")
  return 0 if comparisons and not missing and all(c.passed for c in comparisons) else 1


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of a recording, with errors that name the file."""
  if not path.is_file():
    raise UnsupRuleError(f"{path}: no such file; give the path of an .npz trace")
  try:
    return storage.read_npz(path)
  except OSError as error:
    raise UnsupRuleError(f"cannot read {path}: {error.strerror or error}") from error


def _theta(folder: pathlib.Path, path: pathlib.Path, recording: trace.Arrays) -> Theta:
  from unsup_rule.meta.checkpoint import load_theta

  try:
    like = trace.read_case(recording).theta
  except storage.DAMAGE as error:
    raise _no_recording(path, error) from error
  return load_theta(folder, like)


def _no_recording(path: pathlib.Path, error: BaseException) -> UnsupRuleError:
  reason = (str(error).splitlines() or [type(error).__name__])[0]
  return UnsupRuleError(
    f"{path} is no recording of the rule, or is damaged: {reason}; copy it again"
  )
