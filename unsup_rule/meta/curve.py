"""The training curve: `curve.csv`, a row for each outer step, and `curve.png` drawn from it.

After the columns that every run has, `curve.csv` has one for each data set that came up,
`loss/<data set>`, empty in the rows of steps that did not see the set, and where the rule is
trained one for each of its mixing coefficients, `coefficient/<term>`.
"""

import contextlib
import csv
import io
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.terms import terms
from unsup_rule.rule.theta import COEFFICIENTS

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

COLUMNS: Sequence[str] = ("step", "seconds", "loss", "gradient_norm", "theta_mean_abs", "dropped")
SOURCE_PREFIX = "loss/"
COEFFICIENT_PREFIX = "coefficient/"
Columns = Mapping[str, np.ndarray]  # by name; a value for each row
_PANELS_A_ROW = 3


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


def coefficients(theta: object) -> dict[str, float]:
  """The columns of the mixing coefficients: of W by their terms, of V, if it has its own, "V term".

  Args:
    theta: of whatever is trained; there are none if the rule is no part of it.
  """
  rule = theta.get("rule", theta) if isinstance(theta, Mapping) else {}
  found = {}
  for direction, name in (("forward", ""), ("backward", "V ")):
    if module := rule.get(f"{direction}{COEFFICIENTS}"):
      values = np.asarray(module["w"])[:, 0].tolist()
      by_term = zip(terms(len(values)), values, strict=True)
      found |= {f"{COEFFICIENT_PREFIX}{name}{term}": value for term, value in by_term}
  return found


def read(folder: str | os.PathLike) -> dict[str, np.ndarray]:
  """The columns of the folder's `curve.csv`, one value for each whole row, NaN where it has none.

  Raises:
    UnsupRuleError: there is no such file, or it is damaged.
  """
  path = pathlib.Path(folder) / "curve.csv"
  try:
    names, rows = _parsed(path)
    if not {"step", "loss"} <= {*names}:
      raise ValueError("its first line names no step and no loss")
  except OSError as error:
    raise UnsupRuleError(
      f"cannot read {path}: {error.strerror}; give the folder of a training run"
    ) from error
  except (csv.Error, ValueError, KeyError) as error:
    raise UnsupRuleError(f"{path} is damaged ({error}); restore it from a copy") from error
  return {name: np.asarray([float(row[name] or "nan") for row in rows]) for name in names}


class Curve:
  """Appends rows to `curve.csv`, which it first cuts back to the step where the run goes on."""

  def __init__(self, folder: str | os.PathLike, steps_done: int):
    """Opens the file; rows after `steps_done`, of a session that was killed, are removed."""
    self._path = pathlib.Path(folder) / "curve.csv"
    columns, rows = _read(self._path)
    self._open(columns or list(COLUMNS), [row for row in rows if int(row["step"]) <= steps_done])

  def add(self, **row: float) -> None:
    """Writes one row: a value for each of COLUMNS, and losses by data set.

    Raises:
      OSError: there is no room; open the curve anew to go on.
    """
    new = [name for name in row if name not in self._columns]
    if new:
      self.close()
      self._open(self._columns + new, _read(self._path)[1])
    shown = {name: f"{x:.7g}" if isinstance(x, float) else x for name, x in row.items()}
    try:
      self._writer.writerow(shown)
    except OSError:
      # Part of the row may wait in the stream; a fresh one writes it whole.
      with contextlib.suppress(OSError):
        self.close()
      raise

  def close(self) -> None:
    """Closes the file."""
    self._stream.close()

  def _open(self, columns: list[str], rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_text(self._path, text.getvalue())
    # A line at a time, so that a kill costs no more than one.
    self._stream = open(  # noqa: SIM115  Stays open; see close().
      self._path, "a", buffering=1, encoding="utf-8"
    )
    self._columns = columns
    self._writer = csv.DictWriter(self._stream, columns, lineterminator="\n")


def draw(folder: str | os.PathLike, title: str) -> None:
  """Draws `curve.png`: meta-loss, that of each data set where there are several, gradient norm."""
  folder = pathlib.Path(folder)
  try:
    columns = read(folder)
  except UnsupRuleError as error:  # It is there to be looked at: no run ends for it.
    warnings.warn(f"no curve is drawn: {error}", stacklevel=2)
    return
  figure = _figure(columns, title)
  with storage.atomic_open(folder / "curve.png") as stream:
    figure.savefig(stream, format="png", dpi=120)


def _figure(columns: Columns, title: str) -> "Figure":
  import matplotlib.figure

  steps = columns["step"]
  sources = [name for name in columns if name.startswith(SOURCE_PREFIX)]
  sources = sources if len(sources) > 1 else []
  n_panel_rows = -(-len(sources) // _PANELS_A_ROW)
  figure = matplotlib.figure.Figure(figsize=(8, 6 + 2 * n_panel_rows), layout="constrained")
  grid = figure.add_gridspec(2 + n_panel_rows, 1, height_ratios=(2, *[1] * n_panel_rows, 1))
  loss_axes = figure.add_subplot(grid[0])
  norm_axes = figure.add_subplot(grid[-1], sharex=loss_axes)
  if "validation" in columns:
    _plot_validation(loss_axes, steps, columns["validation"])
  _plot(loss_axes, steps, columns["loss"])
  _plot(norm_axes, steps, columns["gradient_norm"])
  for row in range(n_panel_rows):
    shown = sources[row * _PANELS_A_ROW : (row + 1) * _PANELS_A_ROW]
    panels = grid[1 + row].subgridspec(1, len(shown)).subplots(squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
      _plot(axes, steps, columns[name])
      axes.set_title(name.removeprefix(SOURCE_PREFIX), fontsize="medium")
      axes.tick_params(labelsize="small")
    panels[0].set_ylabel("meta-loss")
  _mark_dropped(loss_axes, steps[columns["dropped"] > 0])
  minutes = columns["seconds"][-1] / 60 if len(steps) else 0
  loss_axes.set(title=f"{title}: {len(steps)} outer steps in {minutes:.1f} min", ylabel="meta-loss")
  loss_axes.legend()
  norm_axes.set(xlabel="outer step", ylabel="meta-gradient norm")
  if np.any(columns["gradient_norm"] > 0):
    norm_axes.set_yscale("log")
  return figure


def _plot(axes: "Axes", steps: np.ndarray, values: np.ndarray) -> None:
  """Draws each value, and their moving average."""
  span = max(5, len(steps) // 15)
  axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8, label="each outer step")
  label = f"moving average over {span} steps"
  axes.plot(steps, smoothed(values, span), color="tab:blue", linewidth=1.8, label=label)
  axes.grid(alpha=0.3)


def _mark_dropped(loss_axes: "Axes", steps: np.ndarray) -> None:
  """Draws a line at each of these steps."""
  for step in steps:
    loss_axes.axvline(step, color="tab:red", alpha=0.4, linewidth=0.8)
  if len(steps):
    loss_axes.plot([], [], color="tab:red", alpha=0.4, label="gradient dropped (not finite)")


def _plot_validation(loss_axes: "Axes", steps: np.ndarray, accuracy: np.ndarray) -> None:
  """Draws accuracies, of the steps that have one, over an axis of their own on the right."""
  axes = loss_axes.twinx()
  there = np.isfinite(accuracy)
  axes.plot(steps[there], accuracy[there], color="tab:orange", marker="o", markersize=3)
  axes.set_ylabel("validation accuracy", color="tab:orange")


def _read(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
  """Returns the columns and the whole rows of the file.

  The curve is there to be looked at: a damaged one is put aside, and the run goes on.
  """
  if not path.exists():
    return [], []
  try:
    return _parsed(path)
  except (csv.Error, OSError, ValueError, KeyError) as error:
    aside = path.with_name(f"damaged_{path.name}")
    path.replace(aside)
    warnings.warn(f"{path} is damaged ({error}); it is {aside} now", stacklevel=2)
    return [], []


def _parsed(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
  """The columns and the whole rows; a kill can leave half a row at the end of the file."""
  text = reading.text(path)
  reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
  rows = [row for row in reader if None not in row.values() and None not in row]
  for row in rows:
    int(row["step"])
    for value in row.values():
      float(value or "nan")
  return list(reader.fieldnames or ()), rows
