"""Accuracy against width, depth, nonlinearity, batch size and permutation."""

import collections
import dataclasses
from collections.abc import Sequence

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.setting import Setting
from unsup_rule.evaluation.store import Row

ABSENT = "Sweeps of width, depth, nonlinearity, batch size or permutation: nothing was varied."

_SETTING = tuple(field.name for field in dataclasses.fields(Setting))

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
  panels = _panels(rows, attribute)
  if not panels:
    return []
  label, logarithmic, see = _SWEEPS[attribute]
  named = isinstance(rows[0]["identity"][attribute], (str, bool))
  figure, axes = style.new_figure(*style.grid(len(panels)), width=6.0 if named else 4.6)
  for one, panel in zip(axes.flat, panels, strict=False):
    _panel(one, panel, attribute, named)
    if logarithmic:
      one.set_xscale("log")
    if not named:
      ticks = sorted({row["identity"][attribute] for row in panel})
      one.set_xticks(ticks, [f"{t:,}" for t in ticks], rotation=30 if len(ticks) > 6 else 0)
      one.minorticks_off()
    one.set(title=comparison.data_label(panel[0]), xlabel=label, ylabel="accuracy")
    one.grid(axis="y", alpha=0.3)
  style.hide_rest(axes, len(panels))
  style.legend_below(figure, list(axes.flat[: len(panels)]))
  title = f"Accuracy against {attribute.replace('_', ' ')}".replace("permute", "permutation")
  caption = f"After the last step, mean and one standard error over seeds. {see}"
  return [style.Drawn(f"sweep_{attribute}", title, caption, style.to_png(figure))]


def _panels(rows: Sequence[Row], attribute: str) -> list[list[Row]]:
  """Rows that differ in the attribute and the method alone; of methods seen at several values."""
  groups: dict[str, list[Row]] = {}
  for row in rows:
    rest = {name: row["identity"][name] for name in _SETTING if name != attribute}
    groups.setdefault(str(rest), []).append(row)
  panels = []
  for group in groups.values():
    counts = collections.Counter(row["method"] for row in group)
    panels.append([row for row in group if counts[row["method"]] > 1])
  return [panel for panel in panels if panel]


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
