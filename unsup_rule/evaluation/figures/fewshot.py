"""Few-shot accuracy of every method, with error bars."""

from collections.abc import Sequence

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.methods import RULES
from unsup_rule.evaluation.store import Row
from unsup_rule.tasks.fewshot import HEADLINE, PROBE_NAMES

ABSENT = "Few-shot accuracy of all methods: no setting has three methods or more."
_FEWEST_METHODS = 3


def draw(rows: Sequence[Row]) -> list[style.Drawn]:
  """One panel for each setting that has several methods."""
  groups = [g for g in _by_setting(rows) if len(g) >= _FEWEST_METHODS]
  if not groups:
    return []
  most = max(map(len, groups))
  n_rows, n_columns = style.grid(len(groups), columns=3)
  figure, axes = style.new_figure(n_rows, n_columns, width=4.6, height=1.0 + 0.25 * most)
  for one, group in zip(axes.flat, groups, strict=False):
    _panel(one, group)
  style.hide_rest(axes, len(groups))
  style.legend_below(figure, list(axes.flat[: len(groups)]))
  return [
    style.Drawn(
      "few_shot",
      "Few-shot accuracy",
      "Share of right answers after the last training step, mean and one standard error over "
      "seeds. Filled: cross-validated ridge; hollow: logistic regression. Further right is better; "
      "the dashed line marks the rule, so that every method right of it does better than the rule.",
      style.to_png(figure),
    )
  ]


def _by_setting(rows: Sequence[Row]) -> list[list[Row]]:
  """Rows that can be compared, of each method the one with the most seeds."""
  groups: dict[tuple[object, ...], dict[str, Row]] = {}
  for row in comparison.by_seeds(comparison.succeeded(rows)):
    groups.setdefault(comparison.comparable(row), {})[comparison.method_label(row)] = row
  return [list(group.values()) for group in groups.values()]


def _panel(axes, group: Sequence[Row]) -> None:
  group = sorted(group, key=lambda row: comparison.reported(row).mean)
  rule = comparison.rule_of(group)
  if rule is not None:
    axes.axvline(comparison.reported(rule).mean, color=style.colour("rule"), ls="--", lw=0.8)
  for y, row in enumerate(group):
    for probe, marker, shift in ((HEADLINE, None, 0.12), ("logistic", "white", -0.12)):
      value = comparison.last(row, probe)
      if value is not None:
        axes.errorbar(
          value.mean,
          y + shift,
          xerr=value.error,
          fmt="o",
          color=style.colour(row["method"]),
          markerfacecolor=marker,
          markersize=5,
          capsize=2,
        )
  for probe, face in ((HEADLINE, "black"), ("logistic", "white")):
    label = PROBE_NAMES[probe]
    axes.plot([], [], "o", color="black", markerfacecolor=face, markersize=5, label=label)
  axes.set_yticks(range(len(group)), [comparison.method_label(row) for row in group])
  for tick, row in zip(axes.get_yticklabels(), group, strict=True):
    tick.set_fontweight("bold" if row["method"] in RULES else "normal")
  axes.set(xlabel="accuracy", title=comparison.data_label(group[0]), ylim=(-0.6, len(group) - 0.4))
  axes.grid(axis="x", alpha=0.3)
