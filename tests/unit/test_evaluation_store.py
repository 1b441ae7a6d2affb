"""Results on disk: durable rows, repair, CSV."""

import csv
import json

import pytest

from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.store import Store, write_csv
from unsup_rule.evaluation.suite import Suite


def row(key="k", status="ok", **changes):
  cell = Suite(methods=("inputs",)).cells(None)[0]
  measured = {"step": 0, "cv": None, "ridge": [0.5, 0.7], "logistic": [0.25, 0.75], "own": None}
  return {
    "key": key,
    "identity": cell.identity,
    "method": "inputs",
    "label": "raw inputs",
    "about": "",
    "status": status,
    "reason": "" if status == "ok" else "RuntimeError: no luck",
    "measurements": [{**measured, "objective": None}] if status == "ok" else [],
    "provenance": {"theta_sha256": "", "hardware": "a machine"},
    "seconds": 1.5,
    "cpu_seconds": 1.25,
    **changes,
  }


def test_rows_survive_and_later_ones_count(tmp_path):
  store = Store(tmp_path)
  store.add(row("a", status="failed"))
  store.add(row("b"))
  store.add(row("a"))
  again = Store(tmp_path)
  assert again.get("a")["status"] == again.get("b")["status"] == "ok"
  assert again.get("c") is None


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_half_written_last_line_is_cut_off(tmp_path, kept):
  store = Store(tmp_path)
  store.add(row("a"))
  store.add(row("b"))
  path = tmp_path / "results.jsonl"
  first, second = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(first + second[:kept])
  repaired = Store(tmp_path)
  assert repaired.get("a") is not None
  assert repaired.get("b") is None
  assert path.read_bytes() == first
  repaired.add(row("b"))
  assert Store(tmp_path).get("b") == row("b")


def test_a_damaged_line_elsewhere_is_an_error_that_names_it(tmp_path):
  path = tmp_path / "results.jsonl"
  Store(tmp_path).add(row("a"))
  good = path.read_text().rstrip()
  path.write_text(f"{good}\n{good[:50]}\n{good}\n")
  with pytest.raises(UnsupRuleError, match=r"results.jsonl line 2 is damaged; delete that line"):
    Store(tmp_path)


def test_a_changed_digit_is_found(tmp_path):
  Store(tmp_path).add(row("a"))
  path = tmp_path / "results.jsonl"
  path.write_text(path.read_text().replace("0.7", "0.8"))
  with pytest.raises(UnsupRuleError, match=r"results.jsonl line 1 is damaged; delete that line"):
    Store(tmp_path)


def test_a_row_without_a_checksum_is_measured_again(tmp_path):
  (tmp_path / "results.jsonl").write_text(json.dumps(row("a")) + "\n")
  with pytest.warns(UserWarning, match=r"1 rows of .* have no checksum"):
    store = Store(tmp_path)
  assert store.get("a") is None
  store.add(row("a"))
  with pytest.warns(UserWarning, match="1 rows"):
    assert Store(tmp_path).get("a") == row("a")


def test_csv_has_every_read_out_and_every_failure(tmp_path):
  write_csv(tmp_path / "r.csv", [row("a", status="failed"), row("b")])
  with open(tmp_path / "r.csv", newline="") as stream:
    failed, ridge, logistic = csv.DictReader(stream)
  assert (failed["status"], failed["reason"]) == ("failed", "RuntimeError: no luck")
  assert failed["readout"] == failed["accuracy"] == ""
  assert (ridge["readout"], ridge["accuracy"], ridge["accuracy_by_seed"]) == (
    "ridge",
    "0.6",
    "0.5 0.7",
  )
  assert float(ridge["standard_error"]) == pytest.approx(0.1)
  assert (logistic["readout"], logistic["accuracy"]) == ("logistic", "0.5")
  assert (ridge["test_split"], ridge["seeds"], ridge["seconds"], ridge["hardware"]) == (
    "test",
    "10",
    "1.5",
    "a machine",
  )
