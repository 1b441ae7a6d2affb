"""A rule in the folder of a run: `rule.npz`, as meta-training, `import-tf` and `export` leave it.

Reading it executes nothing and needs no configuration. `summary.json`, where the run is complete,
adds what was measured.
"""

import dataclasses
import hashlib
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
  known = {name: value for name, value in _summary(path.parent).items() if name != DIGEST}
  return dataclasses.replace(rule, provenance=rule.provenance | known)


def write(folder: str | os.PathLike, rule: Archive) -> None:
  """Writes the rule, atomically."""
  rule.write(pathlib.Path(folder) / _NAME)


def check_params(folder: pathlib.Path, content: bytes) -> None:
  """Checks a `params` file by what `summary.json` says of it; its own format has no checksum.

  Raises:
    UnsupRuleError: one of the two is damaged. A folder without a summary passes.
  """
  expected = _summary(folder).get(DIGEST)
  if expected not in (None, hashlib.sha256(content).hexdigest()):
    raise UnsupRuleError(
      f"{folder / 'params'} is not what summary.json says of it; restore it from a copy, or train "
      "again"
    )


def _summary(folder: pathlib.Path) -> dict[str, object]:
  """What `summary.json` says; an unfinished or imported run has none."""
  path = folder / "summary.json"
  try:
    summary = json.loads(reading.text(path)) if path.exists() else {}
    for name, value in summary.items():
      if value is not None and not isinstance(value, str if name == DIGEST else (int, float)):
        raise ValueError(f"{name} is {value!r}")
    return {name: value for name, value in summary.items() if value is not None}
  except storage.DAMAGE as error:
    raise UnsupRuleError(f"{path} is damaged; remove it, or finish the run again") from error
