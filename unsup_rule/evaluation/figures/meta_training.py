"""The meta-training curve, of a run or of the one that a rule comes from."""

import os
import pathlib

import numpy as np
from matplotlib.axes import Axes

from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.figures.style import Drawn
from unsup_rule.meta import curve
from unsup_rule.meta.curve import Columns

ABSENT = "The meta-training curve: the rule's folder holds no curve.csv."
_STEPS = "outer step (updates of theta)"


def draw(rule_folder: str | os.PathLike | None) -> list[Drawn]:
  """The meta-loss over outer steps."""
  path = None if rule_folder is None else pathlib.Path(rule_folder) / "curve.csv"
  if path is None or not path.exists():
    return []
  columns = curve.read(path.parent)
  return [meta_loss(columns)] if len(columns["step"]) > 1 else []


def meta_loss(columns: Columns) -> Drawn:
  """The meta-loss over outer steps, and where a gradient was dropped."""
  figure, axes = style.new_figure(1, 1, width=8.0)
  one = axes[0, 0]
  _plot(one, columns, "loss", style.colour("rule"))
  for step in columns["step"][columns.get("dropped", np.zeros(len(columns["step"]))) > 0]:
    one.axvline(step, color="black", alpha=0.4, lw=0.8)
  one.set(xlabel=_STEPS, ylabel="meta-loss")
  one.legend(frameon=False)
  return Drawn(
    "meta_training",
    "Meta-training",
    "The meta-loss on the training tasks while theta was learned; lower is better. A curve that "
    "still falls at its right end would gain from more outer steps. A vertical line marks a "
    "gradient that was dropped: not finite or refused.",
    style.to_png(figure),
  )


def validation(columns: Columns) -> list[Drawn]:
  """Accuracies that `trainer.validation_fn` measured."""
  accuracy = columns.get("validation", np.empty(0))
  there = np.isfinite(accuracy)
  if not there.any():
    return []
  figure, axes = style.new_figure(1, 1, width=8.0)
  axes[0, 0].plot(
    columns["step"][there], accuracy[there], "o-", color=style.colour("supervised"), ms=4
  )
  axes[0, 0].set(xlabel=_STEPS, ylabel="validation accuracy")
  axes[0, 0].grid(alpha=0.3)
  return [
    Drawn(
      "validation",
      "Validation",
      "Accuracy by trainer.validation_fn on tasks that training does not see; higher is better. "
      "Where it falls while the meta-loss falls too, theta is fitted to the training tasks.",
      style.to_png(figure),
    )
  ]


def sources(columns: Columns) -> list[Drawn]:
  """The meta-loss of each data set, where there are several."""
  names = [name for name in columns if name.startswith(curve.SOURCE_PREFIX)]
  if len(names) < 2:
    return []
  n_rows, n_columns = style.grid(len(names), columns=3)
  figure, axes = style.new_figure(n_rows, n_columns, width=8.0 / n_columns, height=2.3)
  for one, name in zip(axes.flat, names, strict=False):
    _plot(one, columns, name, style.colour("vae"))
    one.set_title(name.removeprefix(curve.SOURCE_PREFIX), fontsize="medium")
    one.set_xlabel("outer step", fontsize="small")
  style.hide_rest(axes, len(names))
  style.legend_below(figure, [axes[0, 0]])
  figure.supylabel("meta-loss", fontsize="medium")
  return [
    Drawn(
      "sources",
      "Meta-loss by data set",
      "Each panel has a scale of its own: what counts is which curves still fall.",
      style.to_png(figure),
    )
  ]


def gradient(columns: Columns) -> Drawn:
  """The size of the meta-gradient and of theta."""
  figure, axes = style.new_figure(1, 2, width=4.0, height=2.6)
  for one, name, label in (
    (axes[0, 0], "gradient_norm", "norm of the meta-gradient"),
    (axes[0, 1], "theta_mean_abs", "mean |theta|"),
  ):
    _plot(one, columns, name, style.OTHER_COLOUR)
    one.set(xlabel="outer step", ylabel=label)
  axes[0, 0].set_yscale("log")
  return Drawn(
    "gradient",
    "Gradient and theta",
    "Left: the norm of the meta-gradient before any clipping. Right: how theta grows. Spikes that "
    "become more frequent on the left announce a run that diverges.",
    style.to_png(figure),
  )


def _plot(one: Axes, columns: Columns, name: str, colour: str) -> None:
  """A column, and its moving average."""
  steps, values = columns["step"], columns[name]
  span = max(5, len(steps) // 30)
  one.plot(steps, values, color=colour, alpha=0.3, lw=0.7, label="each outer step")
  mean = curve.smoothed(values, span)
  one.plot(steps, mean, color=colour, lw=1.8, label=f"moving average over {span} steps")
  one.grid(alpha=0.3)
