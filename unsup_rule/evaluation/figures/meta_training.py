"""The meta-training curve of the run that the rule comes from."""

import csv
import os
import pathlib

import numpy as np

from unsup_rule.evaluation.figures import style
from unsup_rule.meta import curve

ABSENT = "The meta-training curve: the rule's folder holds no curve.csv."


def draw(rule_folder: str | os.PathLike | None) -> list[style.Drawn]:
  """The meta-loss over outer steps."""
  path = None if rule_folder is None else pathlib.Path(rule_folder) / "curve.csv"
  if path is None or not path.exists():
    return []
  with open(path, newline="", encoding="utf-8") as stream:
    rows = [row for row in csv.DictReader(stream) if row.get("step") and row.get("loss")]
  if len(rows) < 2:
    return []
  steps = np.asarray([int(row["step"]) for row in rows])
  losses = np.asarray([float(row["loss"]) for row in rows])
  span = max(5, len(rows) // 30)
  figure, axes = style.new_figure(1, 1, width=7.0)
  one, rule = axes[0, 0], style.colour("rule")
  one.plot(steps, losses, color=rule, alpha=0.3, lw=0.7, label="each outer step")
  mean = curve.smoothed(losses, span)
  one.plot(steps, mean, color=rule, lw=1.8, label=f"moving average over {span} steps")
  one.set(xlabel="outer step (updates of theta)", ylabel="meta-loss (few-shot probe)")
  one.grid(alpha=0.3)
  one.legend(frameon=False)
  return [
    style.Drawn(
      "meta_training",
      "Meta-training",
      "The meta-loss on the training tasks while theta was learned; lower is better. A curve that "
      "still falls at its right end would gain from more outer steps.",
      style.to_png(figure),
    )
  ]
