"""Where the information is: probes on every layer of the base model."""

from collections.abc import Sequence

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.store import Row
from unsup_rule.tasks.fewshot import mean_and_error

ABSENT = "Probes on every layer: no method was measured with evaluate.layers."


def draw(rows: Sequence[Row]) -> list[style.Drawn]:
  """One panel for each data set and architecture whose layers were probed."""
  panels: dict[tuple[object, ...], list[Row]] = {}
  for row in comparison.succeeded(rows):
    if row["measurements"] and row["measurements"][-1].get("layers"):
      panels.setdefault(comparison.context(row), []).append(row)
  if not panels:
    return []
  n_rows, n_columns = style.grid(len(panels), columns=3)
  figure, axes = style.new_figure(n_rows, n_columns, width=4.2, sharey=True)
  for one, panel in zip(axes.flat, panels.values(), strict=False):
    _panel(one, panel)
  style.hide_rest(axes, len(panels))
  style.legend_below(figure, list(axes.flat[: len(panels)]), columns=2)
  return [
    style.Drawn(
      "layers",
      "Where the information is",
      "Few-shot accuracy from each layer of the base model alone, after the last step; mean and "
      "one standard error over seeds. Filled: after the nonlinearity; hollow: before it. The last "
      "layer is the embedding. A rule that builds features layer by layer rises to the right.",
      style.to_png(figure),
    )
  ]


def _panel(axes, rows: Sequence[Row]) -> None:
  for row in rows:
    layers = row["measurements"][-1]["layers"]
    numbers = sorted({int(name.split()[0]) for name in layers})
    for suffix, face, line in (("", None, "-"), (" pre", "white", ":")):
      found = [mean_and_error(layers[f"{number}{suffix}"]) for number in numbers]
      axes.errorbar(
        numbers,
        [mean for mean, _ in found],
        [error for _, error in found],
        color=style.colour(row["method"]),
        ls=line,
        marker="o",
        markerfacecolor=face,
        markersize=4,
        capsize=2,
        label=row["label"] + (", before the nonlinearity" if suffix else ""),
      )
    axes.set_xticks(numbers, [*map(str, numbers[:-1]), "embedding"])
  identity = rows[0]["identity"]
  size = f"{identity['hidden_layers']}x{identity['width']}"
  axes.set(title=f"{comparison.data_label(rows[0])}, {size}", xlabel="layer", ylabel="accuracy")
  axes.grid(alpha=0.3)
