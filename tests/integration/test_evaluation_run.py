"""The whole command: numbers that repeat, resuming after a kill, failures, the page."""

import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import gin
import pytest
from evaluation_helpers import rule_folder

from unsup_rule.cli import main as cli
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import plan
from unsup_rule.evaluation.store import TIMES
from unsup_rule.weights import pretrained

TINY = (
  "evaluate.n_outputs=8",
  "evaluate.widths=(12,)",
  "evaluate.hidden_layers=(1,)",
  "evaluate.batch_sizes=(16,)",
  "evaluate.steps=(0, 2, 4)",
  "evaluate.seeds=2",
  "evaluate.draws=2",
)


def arguments(out, *bindings, rule=None):
  given = [f"--gin_bindings={binding}" for binding in (*TINY, *bindings)]
  return [
    "evaluate",
    f"--out={out}",
    "--processes=0",
    *given,
    f"--rule={rule or 'none'}",
  ]


def evaluate(command):
  gin.clear_config()  # as in a new process
  return cli.main(command)


def methods(*names):
  return f"evaluate.methods={names!r}"


def numbers(out):
  """Everything in results.csv but how long it took."""
  with open(out / "results.csv", newline="") as stream:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(stream)]


@pytest.mark.slow
def test_same_command_same_numbers_and_one_page_that_stands_alone(tmp_path, capsys):
  rule = rule_folder(tmp_path / "rule")
  (rule / "curve.csv").write_text("step,loss\n1,1.5\n2,1.25\n")
  asked = methods("rule", "untrained", "vae", "supervised", "inputs")
  for name in ("a", "b"):
    command = arguments(
      tmp_path / name, asked, "Supervised.steps=(1, 2)", "evaluate.permute=(True, False)", rule=rule
    )
    assert evaluate(command) == 0
  assert "10 cells measured, 0 failed" in capsys.readouterr().out
  assert numbers(tmp_path / "a") == numbers(tmp_path / "b")

  page = (tmp_path / "a" / "report.html").read_text()
  figures = {path.stem: path.read_bytes() for path in (tmp_path / "a" / "figures").iterdir()}
  assert set(figures) == {
    "few_shot",
    "steps",
    "objective_mismatch",
    "sweep_permute",
    "receptive_fields",
    "embedding",
    "explained_variance",
    "meta_training",
  }
  embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
  assert {base64.b64decode(text) for text in embedded} == set(figures.values())
  assert not re.search(r"https?://|<script|<link|src=\"(?!data:)", page)
  assert page.count("<figcaption>") == len(figures)
  first = numbers(tmp_path / "a")[0]
  assert f"{float(first['accuracy']):.3f}" in page or first["step"] == "0"
  for fact in (first["theta_sha256"], first["hardware"], first["jax"], "evaluate.seeds = 2"):
    assert fact in page
  chromium = shutil.which("chromium") or shutil.which("google-chrome")
  if chromium is None:
    pytest.skip("all but the browser's view was checked: no chromium on this machine")
  shot = tmp_path / "shot.png"
  subprocess.run(
    [
      chromium,
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--window-size=1100,2000",
      f"--screenshot={shot}",
      f"file://{tmp_path}/a/report.html",
    ],
    check=True,
    timeout=120,
    capture_output=True,
  )
  from PIL import Image

  with Image.open(shot) as image:
    assert image.size == (1100, 2000)
    # Text, lines and pictures: much that is neither white nor one other colour.
    assert len(image.convert("L").getcolors()) > 100


def test_a_kill_costs_no_finished_cell(tmp_path):
  asked = methods("inputs", "pca", "untrained", "kmeans")
  assert evaluate(arguments(tmp_path / "whole", asked)) == 0
  out = tmp_path / "killed"
  command = [sys.executable, "-m", "unsup_rule", *arguments(out, asked)]
  process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
  results = out / "results.jsonl"
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and not (results.exists() and results.read_bytes()):
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  done = results.read_bytes()
  finished = done[: done.rfind(b"\n") + 1]
  assert finished
  # As if the kill had come in the middle of the next row.
  results.write_bytes(finished + b'{"key": "half a r')
  assert evaluate(arguments(out, asked)) == 0
  assert results.read_bytes().startswith(finished)
  keys = [json.loads(line)["key"] for line in results.read_text().splitlines()]
  assert len(keys) == len(set(keys)) == 4
  assert numbers(out) == numbers(tmp_path / "whole")


def test_a_cell_that_fails_is_reported_and_tried_again(tmp_path, capsys):
  asked = methods("inputs", "prototypes")
  assert evaluate(arguments(tmp_path, asked, "Prototypes.data='digits'")) == 1
  captured = capsys.readouterr()
  assert "1 cells measured, 1 failed" in captured.out
  failed = [row for row in numbers(tmp_path) if row["status"] == "failed"]
  assert [row["method"] for row in failed] == ["prototypical network"]
  assert "which the cell tests on" in failed[0]["reason"]
  page = (tmp_path / "report.html").read_text()
  assert "Failed cells" in page
  assert "which the cell tests on" in page
  assert evaluate(arguments(tmp_path, asked, "Prototypes.data='digits'")) == 1
  lines = (tmp_path / "results.jsonl").read_text().splitlines()
  assert [json.loads(line)["status"] for line in lines] == ["ok", "failed", "failed"]


@pytest.mark.parametrize(("flags", "rule"), [([], pretrained.DEFAULT), (["--rule=none"], None)])
def test_without_a_rule_the_default_one_is_measured(tmp_path, monkeypatch, flags, rule):
  asked = []

  def read(found):
    asked.append(found.rule)
    raise UnsupRuleError("enough")

  monkeypatch.setattr(plan, "read", read)
  assert evaluate([*arguments(tmp_path, methods("rule"))[:-1], *flags]) == 2
  assert asked == [rule]


@pytest.mark.parametrize(
  ("bindings", "message"),
  [
    (["evaluate.method=()"], "did you mean 'methods'"),
    (["evaluate.examples_per_class=60"], "fewer than the 120 needed"),
    (["evaluate.data=({'name': 'digits', 'classes': (3,)},)"], "has one class"),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, bindings, message):
  assert evaluate(arguments(tmp_path / "out", methods("inputs"), *bindings)) == 2
  assert not list(tmp_path.iterdir())
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith("unsup-rule: error: ")
  assert message in error


def test_theta_of_another_width_is_one_line(tmp_path, capsys):
  rule = rule_folder(tmp_path / "rule")
  asked = arguments(tmp_path / "out", methods("rule"), "evaluate.n_outputs=16", rule=rule)
  assert evaluate(asked) == 2
  assert "embedding of 8 units, the suite has 16" in capsys.readouterr().err


def test_a_rule_is_scored_against_another_of_the_same_theta(tmp_path, capsys):
  """Two rules that differ in their step size alone, as the shipped ones do."""
  rules = [rule_folder(tmp_path / name, learning_rate=r) for name, r in (("a", 0.003), ("b", 1.0))]
  asked = arguments(tmp_path / "out", methods("rule", "inputs"), "evaluate.score=True")
  assert evaluate([*asked, f"--rule={rules[0]}", f"--against={rules[1]}"]) == 0
  out = capsys.readouterr().out
  head, problem, mean = out.splitlines()[:3]
  assert head.endswith("a minus b")
  assert problem.startswith("digits, 10-way, 1x12")
  a, b = problem.split("1x12")[1].split()[:2]
  assert a != b
  assert mean.startswith("mean of normalised accuracies")
  assert (tmp_path / "out" / "scores.txt").read_text() in out
  assert not (tmp_path / "out" / "report.html").exists()
  assert "3 cells measured, 0 failed" in out
  assert evaluate([*asked, f"--against={rules[1]}"]) == 2
  assert "give the rule with --rule" in capsys.readouterr().err
