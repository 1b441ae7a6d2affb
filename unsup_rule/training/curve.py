"""The training curve: `curve.csv`, a row for each outer step, and `curve.png` drawn from it."""

import csv
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from unsup_rule import files

COLUMNS: Sequence[str] = ("step", "seconds", "loss", "gradient_norm", "theta_mean_abs", "dropped")


def smoothed(values: Sequence[float] | np.ndarray, span: int) -> np.ndarray:
  """Returns the exponential moving average over about `span` values, which skips NaN.

  Args:
    values: one-dimensional.
    span: how many values an average reaches back; its weights fall by 1 - 2 / (span + 1) a value.
  """
  decay = 1 - 2 / (span + 1)
  total = weight = 0.0
  averages = []
  for value in values:
    if np.isfinite(value):
      total, weight = decay * total + value, decay * weight + 1
    averages.append(total / weight if weight else np.nan)
  return np.asarray(averages)


class Curve:
  """Appends rows to `curve.csv`, which it first cuts back to the step where the run goes on."""

  def __init__(self, folder: str | os.PathLike, steps_done: int):
    """Opens the file; rows after `steps_done`, of a session that was killed, are removed."""
    self._path = pathlib.Path(folder) / "curve.csv"
    kept = [row for row in _read(self._path) if int(row["step"]) <= steps_done]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    files.write_text(self._path, text.getvalue())
    # A line at a time, so that a kill costs no more than one.
    self._stream = open(  # noqa: SIM115  Stays open; see close().
      self._path, "a", buffering=1
    )
    self._writer = csv.DictWriter(self._stream, COLUMNS, lineterminator="\n")

  def add(self, **row: float) -> None:
    """Writes one row, with a value for each of COLUMNS."""
    self._writer.writerow(
      {name: f"{value:.7g}" if isinstance(value, float) else value for name, value in row.items()}
    )

  def close(self) -> None:
    """Closes the file."""
    self._stream.close()


def draw(folder: str | os.PathLike, title: str) -> None:
  """Draws `curve.png` from `curve.csv`: meta-loss and gradient norm over outer steps."""
  import matplotlib.figure

  folder = pathlib.Path(folder)
  rows = list(_read(folder / "curve.csv"))
  columns = {name: np.asarray([float(row[name]) for row in rows]) for name in COLUMNS}
  figure = matplotlib.figure.Figure(figsize=(8, 6), layout="constrained")
  loss_axes, norm_axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
  span = max(5, len(rows) // 30)
  for axes, name in ((loss_axes, "loss"), (norm_axes, "gradient_norm")):
    axes.plot(
      columns["step"],
      columns[name],
      color="tab:blue",
      alpha=0.3,
      linewidth=0.8,
      label="each outer step",
    )
    axes.plot(
      columns["step"],
      smoothed(columns[name], span),
      color="tab:blue",
      linewidth=1.8,
      label=f"moving average over {span} steps",
    )
    axes.grid(alpha=0.3)
  for step in columns["step"][columns["dropped"] > 0]:
    loss_axes.axvline(step, color="tab:red", alpha=0.4, linewidth=0.8)
  if (columns["dropped"] > 0).any():
    loss_axes.plot([], [], color="tab:red", alpha=0.4, label="gradient dropped (not finite)")
  minutes = columns["seconds"][-1] / 60 if rows else 0
  loss_axes.set(title=f"{title}: {len(rows)} outer steps in {minutes:.1f} min", ylabel="meta-loss")
  loss_axes.legend()
  norm_axes.set(xlabel="outer step", ylabel="meta-gradient norm", yscale="log")
  with files.atomic_open(folder / "curve.png") as stream:
    figure.savefig(stream, format="png", dpi=120)


def _read(path: pathlib.Path) -> list[dict[str, str]]:
  """Returns the whole rows of the file; a kill can leave half a row at its end."""
  if not path.exists():
    return []
  with open(path, newline="") as stream:
    text = stream.read()
  whole = text[: text.rfind("\n") + 1]
  return [
    row
    for row in csv.DictReader(io.StringIO(whole))
    if None not in row.values() and None not in row
  ]
