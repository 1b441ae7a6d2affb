"""Resizing a stack of images on the CPU, in chunks so that the float copy stays small."""

from collections.abc import Callable

import numpy as np

from unsup_rule.errors import UnsupRuleError

_CHUNK_BYTES = 64 * 2**20  # of float32 source pixels held at once


def bilinear_matrix(n_in: int, n_out: int) -> np.ndarray:
  """Weights [n_out, n_in] of bilinear interpolation on TensorFlow 1's default grid.

  Output i reads source coordinate `i * n_in / n_out`, without the half-pixel shift of later
  conventions (`tf.image.resize_images` of TensorFlow 1, `align_corners=False`): an exact factor of
  2 is `x[::2]`.
  """
  source = np.arange(n_out) * (n_in / n_out)
  low = np.floor(source).astype(int)
  high = np.minimum(low + 1, n_in - 1)
  weights = np.zeros((n_out, n_in), np.float32)
  rows = np.arange(n_out)
  np.add.at(weights, (rows, low), 1 - (source - low))
  np.add.at(weights, (rows, high), source - low)
  return weights


def area_matrix(n_in: int, n_out: int) -> np.ndarray:
  """Weights [n_out, n_in] of the average over the source pixels that an output pixel covers."""
  edges = np.arange(n_out + 1) * (n_in / n_out)
  cells = np.arange(n_in)
  overlap = (np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)).clip(0)
  return (overlap * (n_out / n_in)).astype(np.float32)


_MATRICES = {"bilinear": bilinear_matrix, "area": area_matrix}


def resize(images_NxHxWxC: np.ndarray, resolution: int, method: str) -> np.ndarray:
  """Resizes to [N, resolution, resolution, C] of the same dtype.

  Raises:
    UnsupRuleError: unknown method.
  """
  if method not in _MATRICES:
    raise UnsupRuleError(f"unknown resize method {method!r}: choose one of {', '.join(_MATRICES)}")
  _, height, width, _ = images_NxHxWxC.shape
  rows_PxH = _MATRICES[method](height, resolution)
  columns_QxW = _MATRICES[method](width, resolution)

  def both_axes(x_BxHxWxC: np.ndarray) -> np.ndarray:
    x_BxPxWxC = np.tensordot(rows_PxH, x_BxHxWxC, axes=(1, 1)).swapaxes(0, 1)
    return np.moveaxis(np.tensordot(x_BxPxWxC, columns_QxW, axes=(2, 1)), -1, 2)

  return in_chunks(both_axes, images_NxHxWxC)


def in_chunks(function: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
  """Applies `function` (float32 in, float32 out) to chunks of `images`; the result has their dtype.

  uint8 results are rounded to the nearest integer.
  """
  step = max(1, _CHUNK_BYTES // (4 * int(np.prod(images.shape[1:]))))
  parts = []
  for begin in range(0, len(images), step):
    part = function(images[begin : begin + step].astype(np.float32))
    if images.dtype == np.uint8:
      part = np.rint(part).clip(0, 255)
    parts.append(part.astype(images.dtype))
  return np.concatenate(parts)
