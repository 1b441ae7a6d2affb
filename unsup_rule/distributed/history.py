"""What became of a population: `history.csv`, a row for each evaluation, and `members.png`."""

import csv
import io
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError


def add(
  folder: pathlib.Path,
  member: int,
  generation: str,
  parent: tuple[str, int] | None,
  step: int,
  fitness: float,
  bindings: Sequence[str],
) -> None:
  """Appends a row to `history.csv` of the folder."""
  row = {
    "time": f"{time.time():.3f}",
    "member": member,
    "generation": generation,
    "parent": parent[0] if parent else "",
    "parent_step": parent[1] if parent else "",
    "step": step,
    "fitness": f"{fitness:.6g}",
    "bindings": json.dumps(list(bindings)),
  }
  path = folder / "history.csv"
  folder.mkdir(parents=True, exist_ok=True)
  with open(path, "a", newline="", encoding="utf-8") as stream:
    writer = csv.DictWriter(stream, row, lineterminator="\n")
    if not stream.tell():
      writer.writeheader()
    writer.writerow(row)


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows, with numbers as numbers and bindings as dictionaries."""
  path = folder / "history.csv"
  if not path.exists():
    return []
  try:
    return _rows(path)
  except (csv.Error, *storage.DAMAGE) as error:
    raise UnsupRuleError(f"{path} is damaged ({error}); restore it or move it away") from error


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
  return [
    {
      **row,
      "member": int(row["member"]),
      "step": int(row["step"]),
      "fitness": float(row["fitness"]),
      "bindings": dict(
        [part.strip() for part in binding.split("=", 1)] for binding in json.loads(row["bindings"])
      ),
    }
    for row in csv.DictReader(io.StringIO(reading.text(path)))
    if row["bindings"]
  ]


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
  """Returns the row of the best among the members' last evaluations, or None."""
  last = {row["member"]: row for row in rows}
  return max(last.values(), key=lambda row: row["fitness"], default=None)


def describe_best(folder: pathlib.Path) -> str:
  """Says in one line which member ended best."""
  row = best(read(folder))
  if row is None:
    return f"{folder / 'history.csv'}: nothing was evaluated"
  bindings = ", ".join(f"{name} = {value}" for name, value in row["bindings"].items())
  return (
    f"{folder}/member_{row['member']}: the best of the population, fitness "
    f"{row['fitness']:.4f} at update {row['step']}, with {bindings}"
  )


def draw(folder: pathlib.Path) -> None:
  """Draws `members.png`: fitness and each number that members differ in, against updates."""
  import matplotlib.figure

  rows = read(folder)
  names = sorted({name for row in rows for name in row["bindings"] if _number(row, name)})
  figure = matplotlib.figure.Figure(figsize=(8, 3 + 2 * len(names)), layout="constrained")
  panels = figure.subplots(1 + len(names), squeeze=False, sharex=True)[:, 0]
  for member in sorted({row["member"] for row in rows}):
    own = [row for row in rows if row["member"] == member]
    colour = f"C{member % 10}"
    # A line for each generation: between two of them the member became a copy of another one.
    for number, generation in enumerate(dict.fromkeys(row["generation"] for row in own)):
      piece = [row for row in own if row["generation"] == generation]
      steps = [row["step"] for row in piece]
      label = f"member {member}" if number == 0 else None
      panels[0].plot(steps, [row["fitness"] for row in piece], "o-", color=colour, label=label)
      for axes, name in zip(panels[1:], names, strict=True):
        values = [_number(row, name) for row in piece]
        axes.plot(steps, [value or float("nan") for value in values], "o-", color=colour)
  panels[0].set_ylabel("fitness")
  if rows:
    panels[0].legend()
  for axes, name in zip(panels[1:], names, strict=True):
    axes.set(ylabel=name, yscale="log")
  for axes in panels:
    axes.grid(alpha=0.3)
  panels[-1].set_xlabel("update")
  with storage.atomic_open(folder / "members.png") as stream:
    figure.savefig(stream, format="png", dpi=120)


def _number(row: dict[str, Any], name: str) -> float | None:
  """Returns a positive number that a row has, or None."""
  try:
    value = float(row["bindings"][name])
  except (KeyError, ValueError):
    return None
  return value if value > 0 else None
