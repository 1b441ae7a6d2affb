"""What the rule makes of a base model: receptive fields, embedding, explained variance."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from unsup_rule import storage
from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.measuring import arrays_path
from unsup_rule.evaluation.store import Row

# Of each data set: its name, and arrays of its model.
Shown = Mapping[str, tuple[str, dict[str, np.ndarray]]]

ABSENT = "Receptive fields and embeddings: the rule was not measured."
_MOST_PANELS = 4
_FIELDS = 32


def draw(rows: Sequence[Row], folder: str | os.PathLike) -> list[style.Drawn]:
  """Figures of the first seed's model, before and after training, of up to four data sets."""
  shown: dict[str, tuple[str, dict[str, np.ndarray]]] = {}
  for row in comparison.succeeded(rows):
    label = comparison.data_label(row)
    path = arrays_path(folder, row["key"])
    if row["method"] == "rule" and label not in shown and path.exists():
      shown[label] = (row["identity"]["data"]["name"], storage.read_npz(path))
  shown = dict(list(shown.items())[:_MOST_PANELS])
  if not shown:
    return []
  return [*_receptive_fields(shown), _embedding(shown), _variance(shown)]


def _steps(arrays: dict[str, np.ndarray]) -> list[int]:
  """First and last step."""
  steps = sorted(int(name.split("/")[1]) for name in arrays if name.startswith("embedding/"))
  return [steps[0], steps[-1]]


def _receptive_fields(shown: Shown) -> list[style.Drawn]:
  images = {}
  for label, (_, arrays) in shown.items():
    n_inputs = len(arrays["permutation"])
    side = int(np.sqrt(n_inputs))
    if side * side == n_inputs and side > 2:
      images[label] = (side, arrays)
  if not images:
    return []
  figure, axes = style.new_figure(len(images), 2, width=4.4, height=2.6)
  for row, (label, (side, arrays)) in zip(axes, images.items(), strict=True):
    for one, step in zip(row, _steps(arrays), strict=True):
      natural_PxN = np.empty_like(arrays[f"weights/{step}"])
      natural_PxN[arrays["permutation"]] = arrays[f"weights/{step}"]
      one.imshow(_tiled(natural_PxN.T[:_FIELDS].reshape(-1, side, side)), cmap="gray")
      one.set(title=f"{label}, step {step}", xticks=[], yticks=[])
      one.spines[:].set_visible(False)
  return [
    style.Drawn(
      "receptive_fields",
      "Receptive fields of the first layer",
      "Incoming weights of 32 units, moved back into the natural order of the pixels, each scaled "
      "to its own range: left as drawn, right after training. Structure on the right was "
      "found in permuted inputs: the rule never knew which pixels are neighbours.",
      style.to_png(figure),
    )
  ]


def _tiled(fields_NxSxS: np.ndarray) -> np.ndarray:
  """Fields in rows of eight with a white gap, each scaled to [0, 1]."""
  n, side, _ = fields_NxSxS.shape
  columns = min(8, n)
  canvas = np.ones((-(-n // columns) * (side + 1) - 1, columns * (side + 1) - 1))
  for i, field in enumerate(fields_NxSxS):
    y, x = (side + 1) * (i // columns), (side + 1) * (i % columns)
    canvas[y : y + side, x : x + side] = (field - field.min()) / max(np.ptp(field), 1e-12)
  return canvas


def _components(embedding_NxF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Coordinates on the principal components, [N, F], and shares of variance, [F]."""
  centred = embedding_NxF - embedding_NxF.mean(axis=0)
  u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
  return u * s, s**2 / max(np.sum(s**2), 1e-30)


def _embedding(shown: Shown) -> style.Drawn:
  figure, axes = style.new_figure(
    len(shown), 2, width=4.4, height=3.8, subplot_kw={"projection": "3d"}
  )
  for row, (label, (_, arrays)) in zip(axes, shown.items(), strict=True):
    for one, step in zip(row, _steps(arrays), strict=True):
      points, share = _components(arrays[f"embedding/{step}"])
      labels = arrays["labels"][: len(points)]
      one.scatter(*points[:, :3].T, c=labels, cmap="tab10", s=6, depthshade=False, linewidths=0)
      one.set_title(f"{label}, step {step}\n{share[:3].sum():.0%} of the variance")
      for axis, name in zip((one.xaxis, one.yaxis, one.zaxis), "123", strict=True):
        axis.set_ticklabels([])
        axis.set_label_text(f"PC {name}")
        axis.labelpad = -12
  return style.Drawn(
    "embedding",
    "The embedding before and after",
    "Unseen test examples on the top three principal components of the embedding, a colour for "
    "each class that the rule never saw: left before, right after training. Training has helped "
    "where colours lie apart.",
    style.to_png(figure),
  )


def _variance(shown: Shown) -> style.Drawn:
  figure, axes = style.new_figure(1, len(shown), width=3.4, height=2.8, sharey=True)
  for one, (label, (_, arrays)) in zip(axes[0], shown.items(), strict=True):
    for step, colour in zip(_steps(arrays), ("untrained", "rule"), strict=True):
      share = np.cumsum(_components(arrays[f"embedding/{step}"])[1])
      name = "before training" if colour == "untrained" else "after training"
      one.plot(np.arange(1, len(share) + 1), share, color=style.colour(colour), label=name)
    one.set(title=label, xlabel="principal components", ylim=(0, 1.02))
    one.grid(alpha=0.3)
  axes[0, 0].set_ylabel("explained variance")
  style.legend_below(figure, [axes[0, 0]])
  return style.Drawn(
    "explained_variance",
    "Explained variance",
    "Share of the embedding's variance on its leading principal components. A curve that reaches 1 "
    "early is an embedding that uses few of its dimensions.",
    style.to_png(figure),
  )
