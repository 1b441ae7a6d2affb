"""Datasets: what they accept, how they are laid out, and what is made of them."""

import numpy as np
import pytest

from unsup_rule.data import Dataset, resizing
from unsup_rule.errors import UnsupRuleError


def _dataset(images=None, labels=(2, 0, 1, 0, 2, 2), class_names="abc") -> Dataset:
  if images is None:
    images = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4, 1)
  return Dataset.build("some", "train", images, np.asarray(labels), class_names, 1 / 255)


def test_classes_are_contiguous_blocks_in_the_order_given():
  dataset = _dataset()
  assert dataset.labels.tolist() == [0, 0, 1, 2, 2, 2]
  assert dataset.starts.tolist() == [0, 2, 3]
  assert dataset.counts.tolist() == [2, 1, 3]
  assert (dataset.images[:, 0, 0, 0] // 16).tolist() == [1, 3, 2, 0, 4, 5]
  assert {a.dtype for a in (dataset.labels, dataset.starts, dataset.counts)} == {np.dtype(np.int32)}
  assert (dataset.n_classes, dataset.n_inputs, dataset.shape, len(dataset)) == (3, 16, (4, 4, 1), 6)


def test_a_class_without_examples_has_an_empty_block():
  dataset = _dataset(labels=[0, 0, 3, 3, 3, 3], class_names="abcd")
  assert dataset.starts.tolist() == [0, 2, 2, 2]
  assert dataset.counts.tolist() == [2, 0, 0, 4]
  with pytest.raises(UnsupRuleError, match="has 0 examples of class 'b', fewer than the 1 needed"):
    dataset.require_per_class(1)


def test_require_per_class_names_the_smallest_class():
  _dataset().require_per_class(1)
  with pytest.raises(UnsupRuleError, match="has 1 examples of class 'b', fewer than the 2 needed"):
    _dataset().require_per_class(2)


def test_a_dataset_cannot_be_changed_and_leaves_its_source_alone():
  images = np.zeros((6, 4, 4, 1), np.uint8)
  dataset = _dataset(images)
  for array in (dataset.images, dataset.labels, dataset.starts, dataset.counts):
    with pytest.raises(ValueError, match="read-only"):
      array[0] = 1
  images[0] = 1
  assert dataset.images.max() == 0


def test_vectors_share_the_layout_of_images():
  dataset = _dataset(np.ones((6, 5), np.uint8))
  assert dataset.images.shape == (6, 1, 1, 5)
  assert not dataset.is_image
  for method in (dataset.as_grey, lambda: dataset.resized(1)):
    with pytest.raises(UnsupRuleError, match="'some'"):
      method()


_PIXELS = np.zeros((6, 4, 4, 1), np.float32)
_BAD_PIXELS = _PIXELS.copy()
_BAD_PIXELS[4, 1, 1, 0] = np.nan


@pytest.mark.parametrize(
  ("images", "labels", "message"),
  [
    (_BAD_PIXELS, [0] * 6, "non-finite values in 1 examples, first at example 4"),
    (_PIXELS, [0, 1, 2, 3, 0, 0], "label 3 at example 3, outside 0..2"),
    (_PIXELS, [0, -1, 2, 1, 0, 0], "label -1 at example 1, outside 0..2"),
    (_PIXELS, [0.0, 1.0, 2.0, 0.0, 0.0, 0.0], "labels of type float64, not integers"),
    (_PIXELS, [0] * 5, r"labels of shape \(5,\)"),
    (_PIXELS[:0], np.zeros(0, int), "is empty"),
    (_PIXELS[:, :0], [0] * 6, r"inputs of shape \(6, 0, 4, 1\)"),
    (_PIXELS.astype(np.int64), [0] * 6, "inputs of type int64"),
  ],
)
def test_bad_examples_are_refused_in_one_line(images, labels, message):
  with pytest.raises(UnsupRuleError, match=message) as caught:
    _dataset(images, labels)
  assert "data set 'some', split 'train'" in str(caught.value)
  assert "\n" not in str(caught.value)


def test_selected_classes_are_renumbered_in_the_order_given():
  dataset = _dataset().select_classes([2, 0])
  assert dataset.class_names == ("c", "a")
  assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
  assert dataset.starts.tolist() == [0, 3]
  assert dataset.counts.tolist() == [3, 2]
  assert (dataset.images[:, 0, 0, 0] // 16).tolist() == [0, 4, 5, 1, 3]


@pytest.mark.parametrize(
  ("classes", "message"),
  [
    ([], "empty choice of classes"),
    ([0, 0], "repeats a class"),
    ([0, 3], "no class 3: its classes are 0..2"),
    ([-1], "no class -1"),
  ],
)
def test_impossible_choices_of_classes(classes, message):
  with pytest.raises(UnsupRuleError, match=message):
    _dataset().select_classes(classes)


def test_selecting_only_classes_without_examples():
  with pytest.raises(UnsupRuleError, match="no examples of the classes"):
    _dataset(labels=[0] * 6).select_classes([1, 2])


def test_grey_is_the_luma_of_each_pixel():
  rgb = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
  dataset = _dataset(np.broadcast_to(rgb.reshape(1, 2, 2, 3), (6, 2, 2, 3)))
  grey = dataset.as_grey()
  assert grey.images.dtype == np.uint8
  assert grey.images[0, ..., 0].ravel().tolist() == [76, 150, 29, 255]
  assert grey.as_grey() is grey


def test_bilinear_halving_is_plain_subsampling():
  dataset = _dataset()
  np.testing.assert_array_equal(dataset.resized(2).images, dataset.images[:, ::2, ::2])


def test_bilinear_by_hand():
  # Sources of the 2 outputs of 3 inputs: 0 and 1.5, so (1, 0, 0) and (0, 1/2, 1/2).
  image = np.array([[0, 10, 20], [30, 40, 50], [60, 70, 90]], np.uint8)
  dataset = _dataset(np.broadcast_to(image[None, :, :, None], (6, 3, 3, 1)))
  # Rows 1 and 2 average to 45, 55, 70; columns 1 and 2 of that to 62.5, rounded to even.
  assert dataset.resized(2).images[0, ..., 0].tolist() == [[0, 15], [45, 62]]


def test_bilinear_weights_past_the_last_pixel_stay_on_it():
  expected = [[1, 0, 0, 0], [0, 2 / 3, 1 / 3, 0], [0, 0, 1 / 3, 2 / 3]]
  np.testing.assert_allclose(resizing.bilinear_matrix(4, 3), expected, atol=1e-6)


def test_area_by_hand():
  expected = [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]
  np.testing.assert_allclose(resizing.area_matrix(3, 2), expected, atol=1e-6)
  dataset = _dataset()
  # The top left box of the first image of class 1: pixels 32, 33, 36, 37.
  assert (
    dataset.resized(2, "area").images[dataset.starts[1], 0, 0, 0] == 34
  )  # 34.5, rounded to even


@pytest.mark.parametrize("method", ["bilinear", "area"])
def test_resizing_keeps_channels_apart_and_constants_constant(method, monkeypatch):
  images = np.broadcast_to(np.array([7, 200, 90], np.uint8), (6, 5, 7, 3))
  monkeypatch.setattr(resizing, "_CHUNK_BYTES", 1000)  # Two images at a time.
  small = _dataset(images).resized(4, method)
  assert small.images.shape == (6, 4, 4, 3)
  assert (small.images == [7, 200, 90]).all()


def test_resizing_floats_does_not_round():
  dataset = _dataset(np.broadcast_to(np.float32([[0.25, 0.5], [1, 2]])[..., None], (6, 2, 2, 1)))
  assert dataset.resized(1, "area").images[0, 0, 0, 0] == 0.9375


def test_resizing_refuses_what_it_cannot_do():
  dataset = _dataset()
  assert dataset.resized(4) is dataset
  with pytest.raises(UnsupRuleError, match=r"resolution 5 .* whose images are 4x4: choose 1 to 4"):
    dataset.resized(5)
  with pytest.raises(UnsupRuleError, match="resolution 0"):
    dataset.resized(0)
  with pytest.raises(UnsupRuleError, match="unknown resize method 'cubic': choose one of bilinear"):
    dataset.resized(2, "cubic")
