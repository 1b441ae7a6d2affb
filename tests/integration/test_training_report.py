"""`unsup-rule report`: the page of a run, and what it says of a folder that holds none."""

import dataclasses
import json
import re

import meta_problems
import numpy as np
import pytest
from rule_helpers import SMALLEST
from shipped import QUICK

from unsup_rule import pretrained, storage
from unsup_rule.cli.main import main
from unsup_rule.meta import curve, loop
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.rule.terms import TERMS
from unsup_rule.weights import run_folder

HEADER = ",".join(curve.COLUMNS).encode() + b"\n"
COEFFICIENTS = [f"coefficient/{term}" for term in TERMS]
STATUS = {
  "state": "running",
  "gradients": 1234,
  "gradients_per_second": 2.5,
  "batch_size": 2,
  "staleness_mean": 0.5,
  "staleness_max": 3,
  "staleness_bound": 8,
  "refused": {"not finite": 2, "too old": 0},
  "learner_restarts": 1,
  "workers": {"0": {"host": "a", "restarts": 0}, "1": {"host": "b", "restarts": 4}},
}


def launched(folder, steps=30):
  """A folder as `launch` leaves it on the way, by the package's own writers."""
  folder.mkdir()
  rows = curve.Curve(folder, 0)
  for step in range(1, steps + 1):
    rows.add(
      step=step,
      seconds=2.0 * step,
      loss=3 - step / 20,
      gradient_norm=1 / step,
      theta_mean_abs=1.0,
      dropped=int(step == 20),
      **{"loss/glyphs": 2 - step / 20} | ({"loss/<b>": 1.0} if step % 2 else {}),
    )
  rows.close()
  run_folder.write(folder, pretrained(QUICK))
  storage.write_text(folder / "status.json", json.dumps(STATUS))
  storage.write_text(folder / "config.gin", "run_train.lopt = @<UnsupervisedRule>()\n")
  return folder


def page_of(folder, capsys, *more):
  assert main(["report", str(folder), *more]) == 0
  path = capsys.readouterr().out.strip()
  with open(path, encoding="utf-8") as stream:
    return stream.read()


def figures(page):
  """Titles, each with a picture that is in the page."""
  assert not re.search(r"https?://|<script|<link|src=\"(?!data:image/png;base64,)", page)
  return re.findall(r"<figure><h3>([^<]*)</h3><img [^>]*base64,.{1000,}?<figcaption>", page)


def test_a_run_of_train_with_coefficients_over_time(tmp_path, capsys):
  folder = tmp_path / "mine"
  settings = meta_problems.settings(
    lambda lopt, key, number: [meta_problems.FakeEstimator()] * number,
    lopt=UnsupervisedRule(**dataclasses.asdict(SMALLEST)),
    trainer={"validation_fn": meta_problems.size_of_theta, "validation_every_steps": 2},
    num_steps=4,
  )
  loop.train(folder, settings)
  columns = curve.read(folder)
  assert [name for name in columns if name in COEFFICIENTS] == COEFFICIENTS
  # Gradient descent at 1/8 along gradients of one; all begin at 0.1.
  np.testing.assert_allclose(columns["coefficient/hebb"], 0.1 - np.arange(1, 5) / 8, rtol=1e-5)
  before = {path: path.read_bytes() for path in folder.iterdir()}
  page = page_of(folder, capsys)
  assert {path: path.read_bytes() for path in before} == before
  wanted = ["Meta-training", "Validation", "Theta&#39;s mixing coefficients", "Gradient and theta"]
  assert figures(page) == wanted
  assert "order of the right end" in page
  assert "Training run mine" in page
  assert re.search(r"computed on</th><td>\d+ CPU core", page)
  assert "step 4" in page
  assert "not complete" not in page
  assert "Meta-loss by data set: there is one at most." in page


def test_a_run_of_launch_without_them_on_the_way(tmp_path, capsys):
  out = tmp_path / "elsewhere" / "page.html"
  page = page_of(launched(tmp_path / "run"), capsys, "--out", str(out))
  assert out.exists()
  assert not (tmp_path / "run" / "report.html").exists()
  titles = figures(page)
  assert titles[1:3] == ["Meta-loss by data set", "Theta&#39;s mixing coefficients"]
  for part in (
    "these are those of its rule.npz",
    "30, not complete",
    "1 min 0 s, 2 s an outer step",
    "2.9 in the first tenth of the steps, 1.55 in the last",
    "no trainer.validation_fn has measured",
    "2 on 2 machines",
    "gradients a second</th><td>2.50",
    "that was dropped: not finite or refused",
    "learner 1, workers 4",
    "2 not finite</td>",
    "&lt;b&gt;</td><td class=\"n\">15</td>",
    "@&lt;UnsupervisedRule&gt;",
    "not recorded by the version",
    pretrained(QUICK).sha256,
  ):  # fmt: skip
    assert part in page, part


def test_a_run_of_launch_that_has_ended(tmp_path, capsys):
  folder = launched(tmp_path / "run", steps=2)
  status = STATUS | {"state": "finished", "workers": {"0": {"host": "a", "restarts": 0}}}
  storage.write_text(folder / "status.json", json.dumps(status))
  page = page_of(folder, capsys)
  assert "1 on 1 machine</td>" in page
  assert "gradients a second" not in page


def test_what_is_damaged_beside_the_curve_is_said_on_the_page(tmp_path, capsys):
  folder = launched(tmp_path / "run", steps=2)
  (folder / "rule.npz").write_bytes(b"no")
  (folder / "status.json").write_text('{"workers": [1]}')
  (folder / "summary.json").write_text("{")
  (folder / "config.gin").write_bytes(b"\xff")
  (folder / "checkpoint_2").write_bytes(b"no")
  with pytest.warns(UserWarning, match="checkpoint_2 is damaged"):
    page = page_of(folder, capsys)
  assert page.count('<p class="failed">') == 5
  assert "left no rule.npz" in page


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"step,loss\n1,two\n", r"curve\.csv is damaged .*; restore it"),
    (b"step,loss\n1,\xff\n", r"curve\.csv is damaged .*; restore it"),
    (b"", r"curve\.csv is damaged \(its first line names no step"),
    (b"step,loss\n1,2\n", "no whole column seconds; restore it"),
    (HEADER + b"1,inf,3,4,5,0\n", "no whole column seconds; restore it"),
    (HEADER + b"1,2", "has taken no outer step yet; try again later"),
  ],
)
def test_no_curve_to_show(content, message, tmp_path, capsys):
  (tmp_path / "curve.csv").write_bytes(content)
  assert main(["report", str(tmp_path)]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert re.search(message, line)
  assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]
  assert (tmp_path / "curve.csv").read_bytes() == content


def test_folders_that_hold_no_run(tmp_path, capsys):
  assert main(["report", str(tmp_path / "none")]) == 2
  assert "there is no folder" in capsys.readouterr().err
  assert main(["report", str(tmp_path)]) == 2
  assert "has no curve.csv; give the --train_log_dir of" in capsys.readouterr().err
  launched(tmp_path / "member_1")
  assert main(["report", str(tmp_path)]) == 2
  assert "has no curve.csv; give that of a member: member_1" in capsys.readouterr().err


def test_coefficients_of_whatever_is_trained():
  theta = pretrained(QUICK).theta
  names = list(curve.coefficients(theta))
  assert names == COEFFICIENTS
  assert curve.coefficients({"rule": theta, "step": {}}) == curve.coefficients(theta)
  both = {**theta, "backward_weight_readout_coeffs": theta["forward_weight_readout_coeffs"]}
  assert list(curve.coefficients(both))[12:] == [f"coefficient/V {term}" for term in TERMS]
  assert curve.coefficients({"log_lr": np.zeros([])}) == {}
  assert curve.coefficients(np.zeros(3)) == {}
