"""Suites: which cells a gin file asks for, and what is refused."""

import json

import pytest
from evaluation_helpers import rule_folder

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import provenance, runner
from unsup_rule.evaluation.suite import Suite
from unsup_rule.meta import checkpoint, gin_files

SMALL = {"n_outputs": 8, "methods": ("rule", "untrained")}


def test_grids_are_products_and_a_suite_is_their_union(tmp_path):
  rule, digest = provenance.load_rule(rule_folder(tmp_path / "rule"))
  suite = Suite(
    **SMALL,
    widths=(8, 16),
    grids=[{}, {"widths": (16, 32)}, {"methods": ("inputs",), "permute": (True, False)}],
  )
  cells = suite.cells(rule, digest)
  # 2 methods at 3 widths, 1 method at 2 widths permuted and not.
  assert len(cells) == 2 * 3 + 2 * 2
  assert len({cell.key for cell in cells}) == len(cells)
  assert cells[0].identity["theta"] == digest
  assert cells[0].method.schedule.learning_rate == 0.003
  assert json.loads(json.dumps(cells[0].identity)) == cells[0].identity


def test_without_a_rule_only_baselines_are_measured():
  assert [cell.name for cell in Suite(**SMALL).cells(None)] == ["untrained"]
  with pytest.raises(UnsupRuleError, match="nothing to evaluate; name a rule with --rule"):
    Suite(methods=("rule",)).cells(None)


def test_a_theta_of_another_embedding_width_is_an_error(tmp_path):
  rule, digest = provenance.load_rule(rule_folder(tmp_path / "rule"))
  with pytest.raises(UnsupRuleError, match=r"of 8 units, the suite has 32; set .*n_outputs = 8"):
    Suite().cells(rule, digest)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ("vea",)}, "unknown method 'vea'"),
    ({"grids": [{"width": (8,)}]}, "evaluate.grids: unknown name 'width'"),
    (
      {"data": ({"name": "digits", "splits": 3},)},
      "unknown setting 'splits'; did you mean",
    ),
    ({"nonlinearities": ("rellu",)}, "unknown nonlinearity 'rellu'"),
    ({"steps": (10, 5)}, r"evaluate.steps is \(10, 5\)"),
    ({"seeds": 1}, "a standard error needs at least 2"),
    ({"seed": -1}, "evaluate.seed is -1; give 0 or more"),
    ({"grids": [{"widths": 3}]}, r"evaluate.grids: widths is 3; it takes Sequence\[int\]"),
    ({"grids": [{"seeds": "x"}]}, "evaluate.grids: seeds is 'x'; it takes int"),
    ({"grids": [{"methods": "pca"}]}, r"methods is 'pca'; it takes Sequence\[str\]"),
  ],
)
def test_bad_settings_are_named(changes, message):
  with pytest.raises(UnsupRuleError, match=message):
    Suite(**{"methods": ("untrained",), **changes}).cells(None)


def test_results_depend_on_what_changes_the_data_and_not_on_the_title():
  def key(*bindings):
    gin_files.gin.clear_config()
    gin_files.parse((), bindings, ("unsup_rule.evaluation.suite",))
    return Suite(methods=("untrained",)).cells(None)[0].key

  assert key("evaluate.title = 'a'") == key("evaluate.title = 'b'")
  assert key("evaluate.title = 'a'") != key("load_data.resize = 'area'")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, None])
def test_a_damaged_or_missing_rule_is_an_error(tmp_path, content):
  folder = rule_folder(tmp_path / "rule")
  if content is None:
    (folder / "rule.npz").unlink()
  else:
    (folder / "rule.npz").write_bytes(content)
  with pytest.raises(UnsupRuleError, match=r"rule\.npz"):
    provenance.load_rule(folder)


def test_another_optimizers_theta_is_an_error(tmp_path):
  checkpoint.save_params(tmp_path, {"dense": {"w": 1.0}}, step=0)
  with pytest.raises(UnsupRuleError, match=r"has no rule\.npz: give the folder of a run of"):
    provenance.load_rule(tmp_path)


@pytest.mark.slow
def test_a_data_set_that_is_not_prepared_is_an_error(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  def no_network(*unused, **unused_too):
    raise ConnectionError("no route to host")

  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.setenv("UNSUP_RULE_CACHE", str(tmp_path / "cache"))
  cells = Suite(methods=("inputs",), data=("mnist",)).cells(None)
  with pytest.raises(UnsupRuleError, match=r"cannot get data set 'mnist' .*tfds build mnist"):
    runner.check(cells)
