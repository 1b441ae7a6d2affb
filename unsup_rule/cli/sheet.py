"""One picture of what a distribution samples: each data set, plain, augmented and permuted."""

import dataclasses
import math
import operator
import os
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule import storage
from unsup_rule.plugin.distribution import TaskDistribution
from unsup_rule.tasks.augment import KINDS, AugmentationParams
from unsup_rule.tasks.sampler import TaskParams, TaskSampler

if TYPE_CHECKING:  # Slow to import.
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_COLUMNS = 6  # examples of a row, of as many classes as there are
_BLOCKS = ("as it is", "augmented", "permuted: what the rule sees")
# Inches: of an example, around it, between blocks, of the text over a row, and of the margin.
_SIDE, _GAP, _BLOCK_GAP, _HEAD, _MARGIN = 0.76, 0.06, 0.24, 0.58, 0.12
_DRAWS_AT_ONCE = 256


def draw(distribution: TaskDistribution, path: str | os.PathLike, seed: int) -> None:
  """Writes the sheet as PNG: a row for each data set and resolution.

  Args:
    distribution: what is sampled from.
    path: of the picture.
    seed: chooses problems and examples.
  """
  import matplotlib.figure

  rows = [(sampler, i) for sampler in distribution.samplers for i in range(len(sampler.sources))]
  block = _COLUMNS * (_SIDE + _GAP) - _GAP
  width = 2 * _MARGIN + len(_BLOCKS) * (block + _BLOCK_GAP) - _BLOCK_GAP
  height = 2 * _MARGIN + len(rows) * (_HEAD + _SIDE + _GAP)
  figure = matplotlib.figure.Figure(figsize=(width, height))
  canvas = _Canvas(figure, width, height)
  for number, (sampler, source) in enumerate(rows):
    top = _MARGIN + number * (_HEAD + _SIDE + _GAP)
    canvas.text(_MARGIN, top + 0.16, _title(sampler, source), fontsize=9, weight="bold")
    lefts = [_MARGIN + i * (block + _BLOCK_GAP) for i in range(len(_BLOCKS))]
    key = jax.random.fold_in(jax.random.PRNGKey(seed), number)
    _draw_row(canvas, lefts, top + _HEAD, sampler, source, key)
  with storage.atomic_open(path) as stream:
    figure.savefig(stream, format="png", dpi=110)


class _Canvas:
  """A figure addressed in inches from its upper left corner."""

  def __init__(self, figure: "Figure", width: float, height: float):
    self._figure, self._width, self._height = figure, width, height

  def text(self, left: float, top: float, text: str, **style: Any) -> None:
    """Writes; `top` is the base line."""
    self._figure.text(left / self._width, 1 - top / self._height, text, **style)

  def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
    """Adds axes."""
    corner = (left / self._width, 1 - (top + height) / self._height)
    return self._figure.add_axes((*corner, width / self._width, height / self._height))


def _title(sampler: TaskSampler, index: int) -> str:
  source = sampler.sources[index]
  height, width, colours = sampler.shape
  what = f"{height}x{width}, {colours} colours" if colours > 1 else f"{height}x{width} grey"
  if not source.dataset.is_image:
    what = f"{sampler.n_inputs} inputs"
  return f"{source.dataset.name} ({source.dataset.split}), {what}, {ways(source.ways)}"


def ways(numbers: tuple[int, ...]) -> str:
  """(2,) is "2-way", (3, 4, 5) "3- to 5-way", (2, 5) "2- or 5-way"."""
  ordered = sorted(numbers)
  if len(ordered) == 1:
    return f"{ordered[0]}-way"
  if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
    return f"{ordered[0]}- to {ordered[-1]}-way"
  return ", ".join(f"{n}-" for n in ordered[:-1]) + f" or {ordered[-1]}-way"


def _draw_row(
  canvas: _Canvas, lefts: list[float], top: float, sampler: TaskSampler, index: int, key: jax.Array
) -> None:
  source = sampler.sources[index]
  task_key, example_key = jax.random.split(key)
  task_params = _task_params_of(sampler, index, task_key)
  identity = jnp.arange(sampler.n_inputs, dtype=jnp.int32)
  plain = dataclasses.replace(
    task_params, augmentation=AugmentationParams(*jnp.zeros(len(KINDS))), permutation=identity
  )
  moved = dataclasses.replace(
    plain, augmentation=AugmentationParams(*(jnp.asarray(v) for v in source.augmentation.largest))
  )
  augmented = moved if any(source.augmentation.largest) else None
  permuted = dataclasses.replace(moved, permutation=task_params.permutation)
  _, train, _ = sampler.labelled(plain, example_key)
  labels = np.asarray(train.labels)
  chosen = _one_of_each(labels)
  names = sampler.class_names(task_params)
  for left, label, version in zip(lefts, _BLOCKS, (plain, augmented, permuted), strict=True):
    canvas.text(left, top - 0.2, label, fontsize=7.5, color="0.35")
    if version is None:
      canvas.text(left, top + _SIDE / 2, "(no augmentation)", fontsize=7.5, color="0.5")
      continue
    x = np.asarray(sampler.labelled(version, example_key)[0])
    if sampler.n_inputs == 2:
      axes = canvas.axes(left + 0.3, top - 0.1, 2 * _SIDE, _SIDE)
      axes.scatter(*x[: len(labels)].T, c=labels, s=5, cmap="coolwarm")
      axes.tick_params(labelsize=5)
      continue
    for column, row in enumerate(chosen):
      axes = canvas.axes(left + column * (_SIDE + _GAP), top, _SIDE, _SIDE)
      _draw_example(axes, x[row], sampler)
      if version is plain:
        axes.set_title(_short(names[labels[row]]), fontsize=6.5, pad=2)


def _task_params_of(sampler: TaskSampler, index: int, key: jax.Array) -> TaskParams:
  """A sampled problem of one source, with as many ways as any of those drawn."""
  sample = jax.jit(jax.vmap(sampler.sample))
  while True:
    key, draw_key = jax.random.split(key)
    drawn = sample(jax.random.split(draw_key, _DRAWS_AT_ONCE))
    ways_here = np.where(np.asarray(drawn.source) == index, np.asarray(drawn.ways), 0)
    best = int(np.argmax(ways_here))
    if ways_here[best]:
      return jax.tree.map(operator.itemgetter(best), drawn)


def _one_of_each(labels: np.ndarray) -> list[int]:
  """Rows of `_COLUMNS` examples, of different classes as far as possible, in order of class."""
  turn = np.zeros(len(labels), int)
  for label in np.unique(labels):
    turn[labels == label] = np.arange(np.sum(labels == label))
  first = np.lexsort((labels, turn))[:_COLUMNS]
  return sorted(first.tolist(), key=lambda row: labels[row])


def _draw_example(axes: "Axes", x: np.ndarray, sampler: TaskSampler) -> None:
  axes.set(xticks=[], yticks=[])
  height, width, colours = sampler.shape
  if (height, width) == (1, 1):  # A vector, folded into lines.
    width = math.ceil(math.sqrt(len(x)))
    x = np.pad(x, (0, -len(x) % width), constant_values=np.nan).reshape(-1, width)
    axes.imshow(x, cmap="gray")
  elif colours == 3:
    axes.imshow(x.reshape(height, width, 3).clip(0, 1))
  else:
    axes.imshow(x.reshape(height, width, colours)[..., 0], cmap="gray", vmin=0, vmax=1)


def _short(name: str) -> str:
  return name if len(name) <= 11 else f"{name[:10]}…"
