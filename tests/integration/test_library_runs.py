"""Learned optimizers of the library itself, trained, resumed and launched by our commands."""

import json

import gin
import pytest
from folders import ROOT

from unsup_rule import compat
from unsup_rule.cli import main as cli
from unsup_rule.data import tfds_source

RUNS = sorted(path.stem for path in (ROOT / "gin" / "library").glob("*_*.gin"))
# Iterators of the library give its batches, in an order that no checkpoint can hold.
IMAGES = "mlp_lopt_image_mlp_pes"
SMALL = [
  f"{estimator}.{name} = {value}"
  for estimator, length in (
    ("truncated_grad", "unroll_length"),
    ("truncated_es", "unroll_length"),
    ("truncated_pes", "trunc_length"),
  )
  for name, value in ((length, 2), ("num_tasks", 2), ("groups", 1))
]


def command(run, folder, steps, *more):
  bindings = [*SMALL, f"run_train.num_steps = {steps}"]
  flags = [f"--gin_bindings={binding}" for binding in bindings]
  return [
    f"--config_file={ROOT}/gin/library/{run}.gin", f"--train_log_dir={folder}", *flags, *more
  ]  # fmt: skip


def skip_what_lacks(run):
  """Its learned optimizer, or its data."""
  if run.startswith("hyper_v2") and not compat.IS_HEAD:
    pytest.skip("HyperV2 is in HEAD alone")
  folder = tfds_source.data_folder(None) / "fashion_mnist"
  if run == IMAGES and not any(folder.rglob("dataset_info.json")):
    pytest.skip(f"data set fashion_mnist is not prepared in {folder.parent} (set TFDS_DATA_DIR)")


def losses(folder):
  return (folder / "curve.csv").read_text().splitlines()[1:]


def test_each_estimator_is_used():
  texts = "".join((ROOT / "gin" / "library" / f"{run}.gin").read_text() for run in RUNS)
  assert all(f"@truncated_{name}\n" in texts for name in ("grad", "pes", "es"))


@pytest.mark.slow
@pytest.mark.parametrize("run", [run for run in RUNS if run != IMAGES])
def test_trains_and_resumes(run, tmp_path, monkeypatch):
  """A run of 2 and then 4 steps is a run of 4."""
  skip_what_lacks(run)
  monkeypatch.setattr("sys.argv", ["unsup-rule"])  # HyperV2 has absl read it.
  for folder, steps in (("two", 2), ("two", 4), ("one", 4)):
    gin.clear_config()
    assert cli.main(["train", *command(run, tmp_path / folder, steps)]) == 0
  assert len(losses(tmp_path / "one")) == 4
  assert (tmp_path / "two" / "params").read_bytes() == (tmp_path / "one" / "params").read_bytes()


@pytest.mark.slow
def test_images_train_and_resume(tmp_path):
  skip_what_lacks(IMAGES)
  reached = []
  for steps in (2, 4):
    gin.clear_config()
    assert cli.main(["train", *command(IMAGES, tmp_path, steps)]) == 0
    reached.append(((tmp_path / "params").read_bytes(), losses(tmp_path)))
  (theta, rows), (longer_theta, longer) = reached
  assert (len(rows), len(longer)) == (2, 4)
  assert longer[:2] == rows
  assert theta != longer_theta
  assert all(0 < float(row.split(",")[2]) < 10 for row in longer)  # Chance is log 10 = 2.3.


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_launches_on_ray(run, tmp_path):
  skip_what_lacks(run)
  flags = command(run, tmp_path / "run", 3, "--workers=1")
  assert cli.main(["launch", *flags]) == 0
  assert json.loads((tmp_path / "run" / "status.json").read_text())["step"] >= 3
