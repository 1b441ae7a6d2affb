"""How all figures look."""

import dataclasses
import io
from collections.abc import Sequence

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

# A method keeps its colour in every figure (Okabe and Ito: told apart by the colour-blind).
_COLOURS = {
  "rule": "#D55E00",
  "rule_layers": "#E69F00",
  "untrained": "#7F7F7F",
  "supervised": "#009E73",
  "vae": "#0072B2",
  "autoencoder": "#56B4E9",
  "prototypes": "#CC79A7",
  "inputs": "#000000",
  "pca": "#B79F00",
  "kmeans": "#8C564B",
}
OTHER_COLOUR = "#6A3D9A"


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A finished figure.

  Attributes:
    name: of its file, without .png.
    title: heading in the report.
    caption: what to see in it.
    png: the picture.
  """

  name: str
  title: str
  caption: str
  png: bytes


def colour(method: str) -> str:
  """The colour of a method."""
  return _COLOURS.get(method, OTHER_COLOUR)


def new_figure(n_rows: int, n_columns: int, width: float = 4.0, height: float = 3.2, **options):
  """A figure and its axes [n_rows, n_columns]; sizes in inches for one axes."""
  figure = matplotlib.figure.Figure(
    figsize=(max(width * n_columns, 6), height * n_rows), layout="constrained"
  )
  axes = figure.subplots(n_rows, n_columns, squeeze=False, **options)
  for one in axes.flat:
    for side in ("top", "right"):
      one.spines[side].set_visible(False)
  return figure, axes


def grid(count: int, columns: int = 2) -> tuple[int, int]:
  """Rows and columns for `count` axes."""
  columns = min(columns, count)
  return -(-count // columns), columns


def hide_rest(axes: np.ndarray, used: int) -> None:
  """Makes the axes after the first `used` invisible."""
  for one in axes.flat[used:]:
    one.set_visible(False)


def to_png(figure: matplotlib.figure.Figure) -> bytes:
  """The picture as bytes, without a date, so that the same numbers give the same file."""
  stream = io.BytesIO()
  figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
  return stream.getvalue()


def legend_below(figure: matplotlib.figure.Figure, axes: Sequence[Axes], columns: int = 4) -> None:
  """One legend for all axes, each label once."""
  handles = {}
  for one in axes:
    for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
      handles.setdefault(label, handle)
  if handles:
    figure.legend(
      handles.values(),
      handles.keys(),
      loc="outside lower center",
      ncols=min(columns, len(handles)),
      frameon=False,
    )
