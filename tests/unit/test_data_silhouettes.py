"""The drawn silhouettes: what a class is, what a split is, and that a drawing is repeatable."""

import numpy as np
import pytest

from unsup_rule.data import faces, load
from unsup_rule.data.silhouettes import SilhouetteSource
from unsup_rule.errors import UnsupRuleError
from unsup_rule.tasks.sources import check_disjoint

SMALL = {"families": 6, "classes": 4, "examples": 12}


def render(split="train", resolution=14, **settings):
  return SilhouetteSource("silhouettes", split, resolution, **(SMALL | settings)).render()


def pixels(dataset) -> np.ndarray:
  return dataset.images.reshape(len(dataset), -1).astype(float)


def test_layout_of_the_dataset():
  dataset = render()
  assert dataset.images.shape == (6 * 4 * 12, 14, 14, 1)
  assert dataset.images.dtype == np.uint8
  assert dataset.class_names[:5] == ("0.0", "0.1", "0.2", "0.3", "1.0")
  assert set(dataset.counts) == {12}
  np.testing.assert_array_equal(dataset.images, render().images)


def test_the_first_shape_is_drawn_as_recorded():
  shape = render(resolution=8).images[0, ..., 0].astype(int)
  recorded = [
    [28, 163, 112, 41, 98, 125, 48, 0],
    [188, 255, 219, 135, 168, 165, 162, 0],
    [104, 255, 255, 155, 193, 146, 81, 0],
    [0, 0, 197, 195, 196, 25, 0, 0],
    [0, 0, 255, 251, 244, 81, 0, 0],
    [0, 0, 144, 255, 255, 31, 0, 0],
    [0, 0, 255, 255, 255, 131, 0, 0],
    [0, 0, 255, 255, 255, 248, 0, 0],
  ]
  # A machine that rounds otherwise may put one of a pixel's nine points beyond the outline.
  assert (abs(shape - recorded) > 2).sum() <= 2
  assert abs(shape - recorded).max() <= 30


def test_splits_share_no_family():
  means = [pixels(render(split)).reshape(6, -1, 14 * 14).mean(1) for split in faces.SPLITS]
  within = np.linalg.norm(means[0] - pixels(render()).reshape(6, -1, 196)[:, ::2].mean(1), axis=1)
  for other in means[1:]:
    apart = np.linalg.norm(means[0][:, None] - other, axis=2)
    assert apart.min() > 1.4 * within.max()


def test_resolutions_show_the_same_shapes():
  small, large = render(resolution=14), render(resolution=28)
  averaged = large.images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(len(large), -1)
  difference = np.sqrt(((averaged - pixels(small)) ** 2).mean())
  assert difference < 8  # of 255; the supersampled points differ


def test_shapes_fill_the_image_and_leave_its_corners():
  images = render(resolution=28).images[..., 0]
  rows, columns = (images > 0).any(2).sum(1), (images > 0).any(1).sum(1)
  largest = np.maximum(rows, columns)
  assert 22 <= np.median(largest) <= 28
  assert (largest >= 18).mean() > 0.95
  assert np.median(images[:, [0, 0, -1, -1], [0, -1, 0, -1]]) == 0


def test_spreads_set_how_alike_examples_and_classes_are():
  def variances(**settings):
    """Of the ink within classes, of classes within families, and of families."""
    ink = render(examples=20, **settings).images.reshape(6, 4, 20, -1) > 0
    return ink.var(2).mean(), ink.mean(2).var(1).mean(), ink.mean((1, 2)).var(0).mean()

  example, class_, family = variances()
  assert variances(example_spread=0.6)[0] > 1.4 * example
  assert variances(class_spread=0.3)[1] < 0.8 * class_
  assert variances(class_spread=1.0)[2] < 0.7 * family


def test_light_tells_nothing_of_the_class():
  images = render(families=4, classes=10, examples=60).images.reshape(40, 60, -1)
  levels = images.max(2).astype(float)
  assert levels.mean(1).var() < 0.4 * levels.var(1).mean()


def test_loads_by_name_and_fits_the_probe(tmp_path):
  dataset = load("silhouettes", "valid", resolution=8, cache_dir=tmp_path)
  assert dataset.n_classes == 192
  dataset.require_per_class(20)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"split": "all"}, "no split 'all': choose one of train, valid, test"),
    ({"resolution": 64}, "resolution 64 .*: choose 8 to 32"),
    ({"families": 0}, "SilhouetteSource.families is 0: give a whole number from 1 up"),
    ({"example_spread": 1.5}, "example_spread is 1.5: give a number from 0 to 1"),
  ],
)
def test_impossible_settings(settings, message):
  with pytest.raises(UnsupRuleError, match=message):
    SilhouetteSource(**({"name": "silhouettes", "split": "train"} | settings))


def test_other_splits_may_be_evaluated_on():
  trained = {"name": "silhouettes"}
  check_disjoint([trained], [{"name": "silhouettes", "split": "valid"}])
  with pytest.raises(UnsupRuleError, match="both trained and evaluated on"):
    check_disjoint([trained], [{"name": "silhouettes", "classes": (0, 1)}])
