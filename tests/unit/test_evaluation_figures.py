"""What figures show, and what they leave out."""

import numpy as np

from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import inside, steps, sweeps
from unsup_rule.evaluation.suite import Suite


def rows_of(**suite):
  return [
    {
      "key": cell.key,
      "identity": cell.identity,
      "method": cell.name,
      "label": cell.method.label,
      "status": "ok",
      "measurements": [
        {
          "step": 0,
          "validation": [0.6, 0.6],
          "cv": [0.5, 0.6],
          "logistic": [0.4, 0.6],
          "own": None,
          "objective": None,
        },
        {
          "step": 9,
          "validation": [0.5, 0.6],
          "cv": [0.3, 0.5],
          "logistic": [0.7, 0.8],
          "own": None,
          "objective": None,
        },
      ],
    }
    for cell in Suite(**suite).cells(None)
  ]


def test_a_sweep_joins_only_what_differs_in_nothing_else():
  rows = rows_of(
    methods=("untrained",),
    grids=[{"widths": (8, 16, 32)}, {"hidden_layers": (1, 2)}, {"nonlinearities": ("tanh",)}],
  )
  (widths,) = sweeps._panels(rows, "width")
  assert [row["identity"]["width"] for row in widths] == [8, 16, 32]
  assert {row["identity"]["hidden_layers"] for row in widths} == {4}
  (depths,) = sweeps._panels(rows, "hidden_layers")
  assert [row["identity"]["hidden_layers"] for row in depths] == [1, 2]
  assert sweeps._panels(rows, "batch_size") == []
  names = [figure.name for figure in sweeps.draw(rows)]
  assert names == ["sweep_width", "sweep_hidden_layers"]


def test_curves_are_drawn_where_the_rule_is_and_the_longest_first():
  data = tuple({"name": "mnist", "resolution": side} for side in range(7, 15))
  rows = rows_of(methods=("untrained", "inputs"), data=data)
  for row in rows:
    side = row["identity"]["data"]["resolution"]
    if row["method"] == "untrained" and side > 7:
      row["method"] = "rule"
    row["measurements"][-1]["step"] = 3000 if side == 12 else 9
  found = [group[0]["identity"]["data"]["resolution"] for group in steps.panels(rows)]
  assert found == [12, 8, 9, 10, 11, 13]
  assert all(len(group) == 2 for group in steps.panels(rows))


def test_a_panel_has_the_longest_curve_of_each_method():
  few, many = (rows_of(methods=("untrained", "inputs"), seeds=seeds) for seeds in (2, 3))
  for row in (few[0], many[0]):
    row["method"] = "rule"
  few[0]["measurements"][-1]["step"] = 10_000
  (panel,) = steps.panels([*few, *many])
  last = {
    row["label"]: (row["identity"]["seeds"], row["measurements"][-1]["step"]) for row in panel
  }
  assert last == {few[0]["label"]: (2, 10_000), few[1]["label"]: (3, 9)}


def test_last_best_and_paired_differences():
  (row,) = rows_of(methods=("inputs",))
  assert comparison.reported(row).step == 9
  assert comparison.best(row, "cv").step == 0
  assert comparison.best(row, "logistic").mean == 0.5
  assert comparison.last(row, "own") is None
  rule = comparison.Value(9, 0.6, 0.0, (0.5, 0.7))
  found = comparison.difference(rule, comparison.Value(9, 0.5, 0.0, (0.4, 0.6)))
  assert np.isclose(found.mean, 0.1)
  assert found.error < 1e-9
  assert found.verdict == "better"
  assert comparison.Difference(-0.1, 0.04).verdict == "worse"
  assert comparison.Difference(-0.1, 0.06).verdict == "level"


def test_receptive_fields_are_tiled_in_rows_each_at_its_own_range():
  fields = np.stack([np.eye(2), 5 * np.eye(2)] + [np.zeros((2, 2))] * 7)
  canvas = inside._tiled(fields)
  assert canvas.shape == (2 * 2 + 1, 8 * 3 - 1)
  np.testing.assert_array_equal(canvas[:2, :2], np.eye(2))
  np.testing.assert_array_equal(canvas[:2, 3:5], np.eye(2))
  np.testing.assert_array_equal(canvas[:, 2], np.ones(5))


def test_principal_components_explain_what_there_is():
  points = np.random.default_rng(0).normal(size=(500, 1)) * [[3.0, 4.0, 0.0]]
  coordinates, share = inside._components(points)
  np.testing.assert_allclose(share, [1, 0, 0], atol=1e-12)
  np.testing.assert_allclose(coordinates[:, 0].std(), points.std(axis=0) @ [0.6, 0.8, 0], rtol=1e-6)
