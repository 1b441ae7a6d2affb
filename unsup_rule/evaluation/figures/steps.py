"""Accuracy against training steps, and the loss of the methods that have one."""

from collections.abc import Sequence

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.store import Row
from unsup_rule.tasks.fewshot import HEADLINE, mean_and_error

ABSENT = "Accuracy and loss against training steps: no method was measured at three steps or more."
_FEWEST_STEPS = 3
_PANELS = 6  # of the longest curves


def draw(rows: Sequence[Row]) -> list[style.Drawn]:
  """Accuracy of all methods that train for a while; accuracy beside loss where there is one."""
  long = [
    row
    for row in comparison.succeeded(rows)
    if len(row["measurements"]) >= _FEWEST_STEPS and row["method"] != "supervised"
  ]
  return _accuracies(long) + _mismatch([row for row in long if row["measurements"][0]["objective"]])


def panels(rows: Sequence[Row]) -> list[list[Row]]:
  """Rows that share a panel, of each method its longest curve; the longest first.

  Sweeps have a panel for each value; they are drawn against the value instead.
  """
  groups: dict[tuple[object, ...], dict[str, Row]] = {}
  for row in comparison.succeeded(rows):
    curves = groups.setdefault(comparison.comparable(row), {})
    curve = curves.setdefault(comparison.method_label(row), row)
    curves[comparison.method_label(row)] = max(curve, row, key=_length)
  found = [list(group.values()) for group in groups.values()]
  found = [group for group in found if comparison.rule_of(group) is not None]
  return sorted(found, key=lambda group: max(map(_last_step, group)), reverse=True)[:_PANELS]


def _accuracies(rows: Sequence[Row]) -> list[style.Drawn]:
  groups = panels(rows)
  if not groups:
    return []
  figure, axes = style.new_figure(*style.grid(len(groups)), width=4.6)
  for one, group in zip(axes.flat, groups, strict=False):
    for row in group:
      points = comparison.values(row, HEADLINE)
      one.errorbar(
        [p.step for p in points],
        [p.mean for p in points],
        [p.error for p in points],
        color=style.colour(row["method"]),
        ls="-" if row["identity"]["permute"] else "--",
        marker="o",
        markersize=3,
        capsize=2,
        label=comparison.method_label(row),
      )
    _step_axis(one, group)
    one.set(title=_title(group[0], groups), ylabel="accuracy")
    one.grid(alpha=0.3)
  style.hide_rest(axes, len(groups))
  style.legend_below(figure, list(axes.flat[: len(groups)]))
  return [
    style.Drawn(
      "steps",
      "Accuracy against training steps",
      "Mean and one standard error over seeds of few-shot accuracy by the cross-validated probe. "
      "A curve that falls again has trained for too long: a rule that stays good is flat to the "
      "right.",
      style.to_png(figure),
    )
  ]


def _mismatch(rows: Sequence[Row]) -> list[style.Drawn]:
  rows = rows[:6]
  if not rows:
    return []
  figure, axes = style.new_figure(*style.grid(len(rows)), width=4.8)
  for one, row in zip(axes.flat, rows, strict=False):
    points = comparison.values(row, HEADLINE)
    steps = [p.step for p in points]
    one.errorbar(
      steps,
      [p.mean for p in points],
      [p.error for p in points],
      color=style.colour("rule"),
      marker="o",
      markersize=3,
      capsize=2,
      label="few-shot accuracy (left axis)",
    )
    one.set_ylabel("accuracy", color=style.colour("rule"))
    right = one.twinx()
    losses = [mean_and_error(m["objective"])[0] for m in row["measurements"]]
    right.plot(steps, losses, "s--", markersize=3, color=style.colour("vae"))
    one.plot([], [], "s--", color=style.colour("vae"), markersize=3, label="own loss (right axis)")
    right.set_ylabel("loss, nats an example", color=style.colour("vae"))
    right.spines["top"].set_visible(False)
    _step_axis(one, [row])
    one.set_title(f"{comparison.data_label(row)}: {comparison.method_label(row)}")
  style.hide_rest(axes, len(rows))
  style.legend_below(figure, [axes.flat[0]])
  return [
    style.Drawn(
      "objective_mismatch",
      "Objective mismatch",
      "Few-shot accuracy (solid, left axis) and the loss a method minimises (dashed, right axis, "
      "on unseen inputs). Where accuracy falls while the loss still falls, a lower loss does not "
      "mean better features.",
      style.to_png(figure),
    )
  ]


def _last_step(row: Row) -> int:
  return row["measurements"][-1]["step"]


def _length(row: Row) -> tuple[int, int]:
  return _last_step(row), comparison.n_seeds(row)


def _step_axis(axes, group: Sequence[Row]) -> None:
  steps = sorted({m["step"] for row in group for m in row["measurements"]})
  axes.set_xscale("symlog", linthresh=max(1, min(s for s in steps if s > 0)))
  axes.set_xticks(steps, [str(s) for s in steps], rotation=30 if len(steps) > 6 else 0)
  axes.minorticks_off()
  axes.set_xlim(left=-0.02 * steps[-1] if len(steps) < 3 else None)
  axes.set_xlabel("training steps")


def _title(row: Row, groups: Sequence[Sequence[Row]]) -> str:
  """The data set, and the settings in which panels differ."""
  names = ("width", "hidden_layers", "nonlinearity", "batch_size")
  different = [n for n in names if len({str(g[0]["identity"][n]) for g in groups}) > 1]
  parts = [f"{n.replace('_', ' ')} {row['identity'][n]}" for n in different]
  return ", ".join([comparison.data_label(row), *parts])
