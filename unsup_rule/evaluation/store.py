"""Finished cells on disk: `results.jsonl`, a line each, and `results.csv` made from it.

A line is appended and synced when its cell is done, so that an evaluation that is killed goes on
where it was. A half-written last line is cut off. Each line has a checksum of its own.
"""

import csv
import hashlib
import io
import json
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.tasks.fewshot import PROBES, mean_and_error

Row = dict[str, Any]

# Of a row: wall clock, processor time, and that which was spent on its models for other cells. All
# else is the same whenever it is measured.
TIMES = ("seconds", "cpu_seconds", "borrowed_seconds")
_SETTING_COLUMNS = (
  "width",
  "hidden_layers",
  "n_outputs",
  "nonlinearity",
  "permute",
  "batch_size",
  "seeds",
  "draws",
  "examples_per_class",
  "seed",
)


class Store:
  """The results in a folder."""

  def __init__(self, folder: str | os.PathLike):
    """Reads what is there, and repairs a last line that a kill cut short.

    A row without a checksum, of an earlier version, does not count: its cell is measured again.

    Raises:
      UnsupRuleError: another line is damaged, or the file cannot be read or written.
    """
    self._path = pathlib.Path(folder) / "results.jsonl"
    self._rows: dict[str, Row] = {}
    content = self._content()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content or not self._path.exists():
      storage.write_bytes(self._path, whole)
    unchecked = 0
    for number, line in enumerate(whole.splitlines(), start=1):
      try:
        row = json.loads(line)
        sha256 = row.pop("sha256", None)
        self._rows.pop(row["key"], None)
        if sha256 is None:
          unchecked += 1
          continue
        if sha256 != _digest(row):
          raise ValueError("not what its checksum says")
        self._rows[row["key"]] = row
      except storage.DAMAGE as error:
        raise UnsupRuleError(
          f"{self._path} line {number} is damaged; delete that line to measure its cell again"
        ) from error
    if unchecked:
      warnings.warn(
        f"{unchecked} rows of {self._path} have no checksum, so their cells are measured again",
        stacklevel=2,
      )

  def _content(self) -> bytes:
    try:
      with reading.opened(self._path) as stream:
        return stream.read()
    except FileNotFoundError:
      return b""
    except OSError as error:
      raise UnsupRuleError(
        f"cannot read {self._path}: {error.strerror}; move it away, or choose another folder"
      ) from error

  def get(self, key: str) -> Row | None:
    """The row of a cell, finished or failed, or None."""
    return self._rows.get(key)

  def add(self, row: Row) -> None:
    """Appends a cell's row; a later row of the same cell counts in place of an earlier one."""
    line = json.dumps({**row, "sha256": _digest(row)}, allow_nan=False) + "\n"
    try:
      with open(self._path, "ab") as stream:
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())
    except OSError as error:
      raise UnsupRuleError(
        f"cannot write {self._path}: {error.strerror}; free space and start again, it goes on"
      ) from error
    self._rows[row["key"]] = row


def _digest(row: Row) -> str:
  return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def write_csv(path: str | os.PathLike, rows: Sequence[Row]) -> None:
  """Writes a line for each cell, step and probe; for a failed cell, one with the reason."""
  table = []
  for row in rows:
    identity, provenance = row["identity"], row["provenance"]
    data = identity["data"]
    common = {
      "method": row["label"],
      "data": data["name"],
      "resolution": data["resolution"],
      "classes": " ".join(map(str, data["classes"])),
      **{name: data[name] for name in ("grey", "words", "thickness", "shading")},
      "train_split": data["train_split"],
      "test_split": data["test_split"],
      **{name: identity[name] for name in _SETTING_COLUMNS},
      "status": row["status"],
      "reason": row["reason"],
    }
    times = {name: row.get(name, 0.0) for name in TIMES}
    tail = {**provenance, **times, "cell": row["key"]}
    lines = [
      {"step": m["step"], "objective": m["objective"], **_summary(probe, m[probe])}
      for m in row["measurements"]
      for probe in PROBES
      if m[probe]
    ]
    table += [{**common, **line, **tail} for line in lines or [{}]]
  columns = list(dict.fromkeys(name for line in table for name in line))
  # A cell that failed lacks the measured columns; they keep their place all the same.
  columns.sort(key=lambda name: name in (*TIMES, "cell") or name in rows[0]["provenance"])
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
  writer.writeheader()
  writer.writerows(table)
  storage.write_text(path, text.getvalue())


def _summary(probe: str, values: Sequence[float]) -> Row:
  mean, error = mean_and_error(values)
  return {
    "readout": probe,
    "accuracy": repr(mean),
    "standard_error": repr(error),
    "accuracy_by_seed": " ".join(map(repr, values)),
  }
