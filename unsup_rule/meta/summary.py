"""`summary.json`: what a finished run reached."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping

from learned_optimization.learned_optimizers import base as lopt_base

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import progress
from unsup_rule.meta.options import HeldoutFn, measured
from unsup_rule.weights.archive import Archive
from unsup_rule.weights.run_folder import DIGEST as _DIGEST


def is_current(folder: str | os.PathLike, outer_steps: int) -> bool:
  """Tells whether a run of so many outer steps has left its summary, and theta as it was then."""
  folder = pathlib.Path(folder)
  path, rule = folder / "summary.json", folder / "rule.npz"
  try:
    found = json.loads(reading.text(path))
    _described(path, found)
    if rule.exists():
      Archive.read(rule)
    return found["outer_steps"] == outer_steps and found[_DIGEST] == _digest(folder)
  except (UnsupRuleError, *storage.DAMAGE):
    return False


def _digest(folder: pathlib.Path) -> str | None:
  """Checksum of `params`, whose format is the library's and has none."""
  path = folder / "params"
  return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def write(
  folder: str | os.PathLike,
  lopt: lopt_base.LearnedOptimizer,
  initial_theta: lopt_base.MetaParams,
  theta: lopt_base.MetaParams,
  heldout_fn: HeldoutFn | None,
  outer_steps: int,
  seconds: float,
  dropped: int,
) -> None:
  """Measures both thetas with `heldout_fn` and writes `summary.json` atomically.

  The keys `heldout_accuracy_before` and `_after`, and `standard_error` (of the latter), are null
  without a `heldout_fn`. `seconds` is the time of meta-training, over all sessions.
  """
  content: dict[str, float | str | None] = {
    "heldout_accuracy_before": None,
    "heldout_accuracy_after": None,
    "standard_error": None,
  }
  if heldout_fn is not None:
    for when, values in (("before", initial_theta), ("after", theta)):
      progress.say(f"measuring held-out accuracy {when} meta-training")
      found = measured("heldout_fn", heldout_fn, lopt, values)
      content |= {f"heldout_{name}_{when}": value for name, value in found.items()}
    content["standard_error"] = content["heldout_standard_error_after"]
  content |= {
    "outer_steps": outer_steps,
    "seconds": round(seconds, 3),
    "dropped_gradients": dropped,
    _DIGEST: _digest(pathlib.Path(folder)),
  }
  storage.write_text(pathlib.Path(folder) / "summary.json", json.dumps(content, indent=2) + "\n")


def describe(folder: str | os.PathLike) -> str:
  """Returns in one line what the folder's `summary.json` says.

  Raises:
    UnsupRuleError: it cannot be read, or is damaged.
  """
  path = pathlib.Path(folder) / "summary.json"
  try:
    return _described(path, json.loads(reading.text(path)))
  except storage.DAMAGE as error:
    raise UnsupRuleError(
      f"{path} is damaged ({error!r}); remove it, or finish the run again"
    ) from error


def _described(path: pathlib.Path, found: Mapping[str, float]) -> str:
  text = f"{path}: {found['outer_steps']} outer steps in {found['seconds']:.0f} s"
  if found["heldout_accuracy_after"] is not None:
    text += (
      f", held-out accuracy {found['heldout_accuracy_before']:.3f} before and "
      f"{found['heldout_accuracy_after']:.3f} (standard error {found['standard_error']:.3f}) after"
    )
  return text
