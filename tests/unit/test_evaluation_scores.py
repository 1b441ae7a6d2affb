"""One number for two rules, worked out by hand; halves of a split; fillings."""

import numpy as np
import pytest

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import scores
from unsup_rule.evaluation.setting import Data
from unsup_rule.evaluation.suite import Suite


def rows(data, ways, *by_seed):
  """A row of one problem for each tuple of accuracies by seed."""
  (cell,) = Suite(methods=("inputs",), data=(data,)).cells(None)
  measured = [{"step": 3, "cv": list(values)} for values in by_seed]
  return [{**cell.row({}), "ways": ways, "measurements": [m]} for m in measured]


def test_problems_of_other_ways_weigh_the_same_and_errors_add_in_squares():
  two, ten = rows("digits", 2, (0.7, 0.9), (0.7, 0.8)), rows("imdb", 10, (0.55, 0.55), (0.1, 0.28))
  first, second, mean = scores.scores({"new": [two[0], ten[0]], "old": [two[1], ten[1]]})
  assert first.values == pytest.approx({"new": 0.8, "old": 0.75})
  assert (first.difference.mean, first.difference.error) == (
    pytest.approx(0.05),
    pytest.approx(0.05),
  )
  assert second.label == "imdb, 10-way, 4x128"
  # Normalised: 2-way .4 and .8 against .4 and .6; 10-way .5 and .5 against 0 and .2.
  assert mean.values == pytest.approx({"new": 0.55, "old": 0.3})
  assert mean.difference.mean == pytest.approx(0.25)
  # Differences 0, .2 and .5, .3: errors .1 and .1, so sqrt(.02) / 2.
  assert mean.difference.error == pytest.approx(np.sqrt(0.02) / 2)
  text = scores.table([first, second, mean])
  assert "new minus old" in text
  assert "+0.2500 ± 0.0707 better" in text.splitlines()[-1]


def test_only_problems_that_all_were_measured_on_count():
  two, ten = rows("digits", 2, (0.7, 0.9)), rows("imdb", 10, (0.55, 0.55), (0.1, 0.28))
  only, mean = scores.scores({"new": [*two, ten[0]], "old": [ten[1]]})
  assert only.label == "imdb, 10-way, 4x128"
  assert mean.values == pytest.approx({"new": 0.5, "old": 0.1})
  assert scores.scores({"new": two, "old": []}) == []


def test_halves_of_a_split_share_no_example_and_hold_each_class():
  data = Data("glyphs/letters", train_split="valid[0::2]", test_split="valid[1::2]", resolution=8)
  train, test = (data.load(split) for split in (data.train_split, data.test_split))
  whole = Data("glyphs/letters", resolution=8).load("valid")
  assert len(train) + len(test) == len(whole)
  np.testing.assert_array_equal(train.images, whole.images[::2])
  np.testing.assert_array_equal(test.images, whole.images[1::2])
  assert test.counts.min() >= 20


@pytest.mark.parametrize("test_split", ["valid", "valid[1::2]"])
def test_a_half_is_not_trained_and_tested_on(test_split):
  with pytest.raises(UnsupRuleError, match="would be trained and tested on"):
    Data("glyphs", train_split="valid[1::2]", test_split=test_split)


def test_filled_glyphs_have_more_ink_and_are_drawn_alike():
  plain = Data("glyphs/letters", resolution=14).load("valid")
  filled = Data("glyphs/letters", resolution=14, thickness=2.0)
  assert filled.load("valid").images.mean() > 1.3 * plain.images.mean()
  np.testing.assert_array_equal(filled.load("valid").images, filled.load("valid").images)
  shaded = Data("glyphs/letters", resolution=14, shading=1.0).load("valid")
  assert shaded.images.mean() < 0.9 * plain.images.mean()
  assert "filled" in filled.label
