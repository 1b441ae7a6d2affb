"""A rule as a folder: `params` and `config.gin`, as meta-training and `import-tf` leave it."""

import ast
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

import flax.serialization
import msgpack

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint
from unsup_rule.rule.schedule import InnerSchedule, read_setting
from unsup_rule.rule.theta import abstract, nested, sizes_of
from unsup_rule.weights.archive import Archive, Use

_NAMES = "|".join(field.name for field in dataclasses.fields(InnerSchedule))
_SCHEDULE = re.compile(rf"^\s*UnsupervisedRule\.({_NAMES})\s*=\s*(\S+)", re.MULTILINE)
_INNER_OPTIMIZER = re.compile(
  r"^\s*UnsupervisedRule\.(?:inner_optimizer|step)\s*=\s*(?!None\b)(\S+)", re.MULTILINE
)  # `step` in runs of before
_SOURCES = re.compile(r"^\s*task_distribution\.sources\s*=\s*(.+)$", re.MULTILINE)
_SEED = re.compile(r"^\s*trainer\.seed\s*=\s*(\d+)", re.MULTILINE)


def read(folder: str | os.PathLike) -> Archive:
  """Reads theta and what the folder knows of its origin.

  Raises:
    UnsupRuleError: a file is missing or damaged, or holds no theta of the rule alone.
  """
  folder = pathlib.Path(folder)
  path = folder / "params"
  try:
    content = path.read_bytes()
    text = (folder / "config.gin").read_text()
  except OSError as error:
    raise UnsupRuleError(
      f"cannot read {error.filename}: {error.strerror}; give the folder of a run, with params and "
      "config.gin"
    ) from error
  if together := _INNER_OPTIMIZER.search(text):
    raise UnsupRuleError(
      f"the rule in {folder} was trained together with inner_optimizer = {together[1]} and is not "
      "a rule alone; use its theta with UnsupervisedRule(inner_optimizer=...) and load_theta"
    )
  try:
    found: Any = flax.serialization.msgpack_restore(content)
    sizes = sizes_of(found["params"])
  except (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    msgpack.exceptions.UnpackException,
  ) as error:
    raise UnsupRuleError(
      f"{path} is damaged or holds no theta of the rule; give the folder of a run that trained "
      "@UnsupervisedRule()"
    ) from error
  theta = checkpoint.load_theta(path, nested(abstract(sizes)))
  schedule = InnerSchedule(**_schedule(folder, text))
  return Archive(theta, schedule, Use(), _provenance(folder, text))


def write(folder: str | os.PathLike, rule: Archive) -> None:
  """Writes `params` and `config.gin`, which the library's `opt_from_checkpoint` loads."""
  folder = pathlib.Path(folder)
  if (folder / "params").exists():
    raise UnsupRuleError(f"{folder}/params exists already; choose another folder")
  values = dataclasses.asdict(rule.sizes) | dataclasses.asdict(rule.schedule)
  lines = [f"UnsupervisedRule.{key} = {value!r}" for key, value in values.items()]
  text = "\n".join(
    ["import unsup_rule.plugin.rule", *lines, "run_train.lopt = @UnsupervisedRule()", ""]
  )
  storage.write_text(folder / "config.gin", text)
  checkpoint.save_params(folder, rule.theta, step=rule.provenance.get("outer_steps") or 0)


def _schedule(folder: pathlib.Path, text: str) -> dict[str, Any]:
  settings: dict[str, Any] = {}
  for name, value in _SCHEDULE.findall(text):
    try:
      settings[name] = read_setting(value)
    except (ValueError, SyntaxError) as error:
      raise UnsupRuleError(
        f"{folder}/config.gin binds UnsupervisedRule.{name} to {value}; give a plain value"
      ) from error
  return settings


def _provenance(folder: pathlib.Path, text: str) -> dict[str, Any]:
  """What config.gin and summary.json say; an unfinished or imported run has no summary."""
  seed = _SEED.search(text)
  known: dict[str, Any] = {
    "gin": text,
    "data_sets": _data_sets(text),
    "seed": int(seed[1]) if seed else 0,
  }
  path = folder / "summary.json"
  try:
    summary = json.loads(path.read_text()) if path.exists() else {}
    return known | {name: value for name, value in summary.items() if value is not None}
  except (OSError, ValueError, AttributeError) as error:
    raise UnsupRuleError(f"{path} is damaged; remove it, or finish the run again") from error


def _data_sets(text: str) -> list[str]:
  """Names in the list of sources; none where the run drew its problems otherwise."""
  found = _SOURCES.search(text)
  try:
    sources = ast.literal_eval(found[1]) if found else ()
    return sorted({one if isinstance(one, str) else one["name"] for one in sources})
  except (ValueError, SyntaxError, KeyError, TypeError):
    return []
