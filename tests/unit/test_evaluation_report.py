"""What the page says: headline, wins and losses, claims, advice, worked out from rows by hand."""

import pytest

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import claims, report, summary
from unsup_rule.evaluation.suite import Suite

ACCURACY = {"rule": 0.8, "untrained": 0.5, "vae": 0.7, "supervised": 0.72, "inputs": 0.83}


def rows(accuracies=ACCURACY, step=100, shift=(-0.01, 0.01), **suite):
  """A row of each method in each setting of a suite, by accuracy of a method."""
  names = tuple(name for name in accuracies if name != "rule")
  found = []
  for cell in Suite(**{"methods": names, **suite}).cells(None):
    found.append(filled(cell, cell.name, accuracies[cell.name], step, shift))
  if "rule" in accuracies:
    for cell in Suite(**{**suite, "methods": ("untrained",)}).cells(None):
      row = filled(cell, "rule", accuracies["rule"], step, shift)
      found.append({**row, "label": "the rule", "about": "", "key": "rule" + row["key"]})
  return found


def filled(cell, method, mean, step, shift):
  row = cell.row({"hardware": "a machine"})
  measured = {
    "step": step,
    "cv": [mean + by for by in shift],
    "ridge": [mean + by for by in shift],
    "logistic": None,
    "own": None,
    "objective": None,
    "layers": None,
  }
  times = {"seconds": 9.0, "cpu_seconds": 200.0 if method == "rule" else 2.0}
  return {**row, "method": method, "ways": 10, "measurements": [measured], **times}


DATA = ({"name": "mnist", "resolution": 14}, {"name": "fashion_mnist", "resolution": 14})


def by_text(found, part):
  (claim,) = [claim for claim in found if part in claim.text]
  return claim


def read(folder):
  return (folder / "results.md").read_text()


def test_headline_orders_methods_and_compares_each_with_the_rule():
  table = summary.headline(rows(data=DATA))
  assert [line.label for line in table.lines][:2] == ["raw inputs", "the rule"]
  assert table.data == ["mnist 14x14", "fashion_mnist 14x14"]
  assert table.strongest("mnist 14x14").label == "raw inputs"
  found = summary.verdicts(table)
  assert {method for _, method, _ in found.losses} == {"raw inputs"}
  assert {method for _, method, _ in found.wins} == {"random initialisation", "VAE", "supervised"}
  (advice,) = summary.advice(table)
  assert (advice.kind, advice.ranked[0].line.label, advice.rule[0]) == ("images", "raw inputs", 2)
  assert advice.rule[1].seconds == pytest.approx(20.0)


def test_a_fast_method_that_is_close_is_recommended_beside_the_best():
  table = summary.headline(rows({**ACCURACY, "rule": 0.835}, data=DATA))
  (advice,) = summary.advice(table)
  assert advice.ranked[0].line.is_rule
  assert advice.cheapest.line.label == "raw inputs"


def test_references_have_a_block_of_their_own():
  found = rows(data=DATA)
  for row in found:
    row["reference"] = row["method"] == "inputs"
  table = summary.headline(found)
  assert [line.label for line in table.references] == ["raw inputs"]
  assert "raw inputs" not in [line.label for line in table.lines]
  assert not summary.verdicts(table).losses


def test_claims_are_met_or_not_by_their_differences():
  met = claims.claims(rows(data=DATA))
  assert by_text(met, "fair probe").status == "met"
  assert "mnist 14x14, VAE: +0.100 ± 0.000" in by_text(met, "fair probe").evidence
  assert by_text(met, "Invariant").status == "not measured"
  worse = claims.claims(rows({**ACCURACY, "vae": 0.9}, data=DATA))
  assert by_text(worse, "fair probe").status == "in part"
  unclear = claims.claims(rows({"rule": 0.8, "untrained": 0.8}, data=DATA, shift=(0.1, -0.1)))
  assert by_text(unclear, "fair probe").status == "unclear"


def test_a_sweep_must_be_above_untrained_everywhere_and_rise_with_width():
  found = []
  for width, accuracy in ((32, 0.7), (128, 0.75), (512, 0.8)):
    found += rows({"rule": accuracy, "untrained": 0.5}, data=DATA[:1], widths=(width,))
  claim = by_text(claims.claims(found), "in width")
  assert claim.status == "met"
  assert "widest minus narrowest: +0.100 ± 0.000" in claim.evidence
  found[-1]["measurements"][0]["cv"] = [0.6, 0.62]  # the widest is worse than the narrowest
  assert by_text(claims.claims(found), "in width").status == "in part"


def test_the_pages_say_the_same_and_escape_what_they_must(tmp_path):
  found = rows(data=DATA)
  found[0]["status"], found[0]["reason"] = "failed", "<b>no</b> luck"
  suite = Suite(title="A & B")
  page = report.write(tmp_path, suite, found, "evaluate.seeds = 2", None).read_text()
  assert "A &amp; B" in page
  assert "&lt;b&gt;no&lt;/b&gt; luck" in page
  text = read(tmp_path)
  assert "| **the rule** | .800 ± .010 | .800 ± .010 |" in text
  assert "| raw inputs | **.830 ± .010** | **.830 ± .010** |" in text
  for part in ("Which method would I use?", "Where the rule wins", "Where the rule loses"):
    assert part in text
  report.copy_page(tmp_path, tmp_path / "docs" / "results.md")
  copied = (tmp_path / "docs" / "results.md").read_text()
  assert "(results/few_shot.png)" in copied
  assert (tmp_path / "docs" / "results" / "few_shot.png").exists()


def test_more_seeds_for_a_claim_count_in_the_table_and_are_said(tmp_path):
  few = rows(data=DATA, seeds=2)
  report.write(tmp_path, Suite(), few, "", None)
  assert "over 2 base models (sweeps, and what takes longest: fewer), each" in read(tmp_path)
  accuracies = {"rule": 0.7, "untrained": 0.5}
  more = rows(accuracies, data=DATA[:1], seeds=3, shift=(-0.01, 0.0, 0.01))
  report.write(tmp_path, Suite(), few + more, "", None)
  assert "over 2 base models" in read(tmp_path)
  assert "fewer; small differences that a claim rests on: more), each" in read(tmp_path)
  assert "| **the rule** | .700 ± .006 | .800 ± .010 |" in read(tmp_path)


def test_the_short_table_names_the_strongest_rival_and_stands_between_its_marks(tmp_path):
  report.write(tmp_path, Suite(), rows(data=DATA), "", None)
  page = tmp_path / "README.md"
  page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
  report.copy_table(tmp_path, page)
  text = page.read_text()
  assert text.startswith("before\n<!-- results -->\n| |")
  assert text.endswith("<!-- /results -->\nafter\n")
  assert "old" not in text
  assert "strongest rivals: raw inputs on mnist 14x14 (0.830 ± 0.010)" in text
  for line in text.splitlines():
    assert not line.startswith("| ") or line in read(tmp_path)
  page.write_text("no marks")
  with pytest.raises(UnsupRuleError, match=r"README\.md has no <!-- results -->"):
    report.copy_table(tmp_path, page)
