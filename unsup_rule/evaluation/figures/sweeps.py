"""Accuracy against width, depth, nonlinearity, batch size and permutation."""

from collections.abc import Sequence
from typing import Any

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.store import Row

ABSENT = "Sweeps of width, depth, nonlinearity, batch size or permutation: nothing was varied."

# attribute -> (axis label, logarithmic, what to see)
_SWEEPS = {
  "width": (
    "units of each hidden layer",
    True,
    "A rule that generalises in width stays above random initialisation, and rises, to the right "
    "of the widths it was meta-trained on.",
  ),
  "hidden_layers": (
    "hidden layers (the embedding is one more)",
    False,
    "A rule that generalises in depth stays above random initialisation as layers are added.",
  ),
  "nonlinearity": (
    "",
    False,
    "The rule was meta-trained on relu alone; for each other nonlinearity, its distance above "
    "random initialisation is what it still adds.",
  ),
  "batch_size": (
    "examples of a batch",
    True,
    "How far the rule depends on the size of the batches it was meta-trained on.",
  ),
  "permute": (
    "",
    False,
    "A rule that knows nothing of pixels is as good on permuted inputs as on natural ones, within "
    "the error bars; a method that transfers features is not.",
  ),
}


def draw(rows: Sequence[Row]) -> list[style.Drawn]:
  """One figure for each attribute with several values, one panel a data set."""
  rows = comparison.succeeded(rows)
  return [drawn for attribute in _SWEEPS for drawn in _sweep(rows, attribute)]


def _sweep(rows: Sequence[Row], attribute: str) -> list[style.Drawn]:
  by_data: dict[str, list[Row]] = {}
  for row in rows:
    by_data.setdefault(comparison.data_label(row), []).append(row)
  varied = [row for row in rows if len(_values_of(row["method"], rows, attribute)) > 1]
  panels = [label for label in by_data if any(row in varied for row in by_data[label])]
  if not panels:
    return []
  label, logarithmic, see = _SWEEPS[attribute]
  named = isinstance(rows[0]["identity"][attribute], (str, bool))
  figure, axes = style.new_figure(*style.grid(len(panels)), width=6.0 if named else 4.6)
  for one, data in zip(axes.flat, panels, strict=False):
    _panel(one, [row for row in by_data[data] if row in varied], attribute, named)
    if logarithmic:
      one.set_xscale("log")
    if not named:
      ticks = sorted({row["identity"][attribute] for row in by_data[data]})
      one.set_xticks(ticks, [f"{t:,}" for t in ticks], rotation=30 if len(ticks) > 6 else 0)
      one.minorticks_off()
    one.set(title=data, xlabel=label, ylabel="accuracy, ridge")
    one.grid(axis="y", alpha=0.3)
  style.hide_rest(axes, len(panels))
  style.legend_below(figure, list(axes.flat[: len(panels)]))
  title = f"Accuracy against {attribute.replace('_', ' ')}".replace("permute", "permutation")
  caption = f"After the last step, mean and one standard error over seeds. {see}"
  return [style.Drawn(f"sweep_{attribute}", title, caption, style.to_png(figure))]


def _values_of(method: str, rows: Sequence[Row], attribute: str) -> set[Any]:
  return {row["identity"][attribute] for row in rows if row["method"] == method}


def _panel(axes, rows: Sequence[Row], attribute: str, named: bool) -> None:
  methods = list(dict.fromkeys(row["method"] for row in rows))
  order = list(dict.fromkeys(row["identity"][attribute] for row in rows))
  for position, method in enumerate(methods):
    mine = [row for row in rows if row["method"] == method]
    if not named:
      mine.sort(key=lambda row: row["identity"][attribute])
    points = [comparison.reported(row) for row in mine]
    shift = 0.12 * (position - (len(methods) - 1) / 2)
    x = [row["identity"][attribute] for row in mine]
    axes.errorbar(
      [order.index(value) + shift for value in x] if named else x,
      [p.mean for p in points],
      [p.error for p in points],
      color=style.colour(method),
      ls="none" if named else "-",
      marker="o",
      markersize=5 if named else 3,
      capsize=2,
      label=mine[0]["label"],
    )
  if named:
    names = {True: "permuted", False: "natural order"}
    axes.set_xlim(-0.5, len(order) - 0.5)
    axes.set_xticks(range(len(order)), [str(names.get(value, value)) for value in order])
