"""A rule in the folder of a run: `rule.npz`, as meta-training, `import-tf` and `export` leave it.

Reading it executes nothing and needs no configuration. `summary.json`, where the run is complete,
adds what was measured.
"""

import dataclasses
import json
import os
import pathlib

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.weights.archive import Archive

_NAME = "rule.npz"
DIGEST = "params_sha256"  # In `summary.json`; of a file, and no part of where a rule comes from.


def read(folder: str | os.PathLike) -> Archive:
  """Reads the rule, and what the folder knows of its origin.

  Raises:
    UnsupRuleError: a file is missing or damaged, or the run trains no rule alone.
  """
  path = pathlib.Path(folder) / _NAME
  if not path.is_file():
    raise UnsupRuleError(
      f"{folder} has no {_NAME}: give the folder of a run of @UnsupervisedRule() alone; what an "
      "earlier version, or a run with another optimizer in it, left in params is for load_theta"
    )
  rule = Archive.read(path)
  return dataclasses.replace(rule, provenance=rule.provenance | _summary(path.parent))


def write(folder: str | os.PathLike, rule: Archive) -> None:
  """Writes the rule, atomically."""
  rule.write(pathlib.Path(folder) / _NAME)


def _summary(folder: pathlib.Path) -> dict[str, object]:
  """What `summary.json` says; an unfinished or imported run has none."""
  path = folder / "summary.json"
  try:
    summary = json.loads(reading.text(path)) if path.exists() else {}
    return {n: value for n, value in summary.items() if value is not None and n != DIGEST}
  except storage.DAMAGE as error:
    raise UnsupRuleError(f"{path} is damaged; remove it, or finish the run again") from error
