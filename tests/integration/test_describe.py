"""`unsup-rule describe`, the gin files that come with the package, and counted arithmetic."""

import pathlib
import re
import subprocess
import sys
import zipfile

import gin
import jax
import jax.numpy as jnp
import matplotlib.image
import pytest
from folders import ROOT
from shipped import QUICK

from unsup_rule.cli import main as cli
from unsup_rule.cli.sheet import ways
from unsup_rule.machine.counting import needs
from unsup_rule.meta import gin_files, gin_values, heldout

_GIN = ROOT / "gin"
_RUNS = sorted(path.name for path in _GIN.glob("*.gin"))
_TINY = """
include 'estimator/es.gin'
include 'length/short.gin'
include 'data/toys.gin'
run_train.lopt = @UnsupervisedRule()
run_train.num_estimators = 3
UnsupervisedRule.top_delta_size = 4
UnsupervisedRule.compute_h_size = 4
UnsupervisedRule.delta_dim = 4
truncated_es.num_tasks = 2
truncations = (1, 3)
two_moons = {"name": "two_moons", "weight": 3.0, "noise": 0.2, "noise_probability": 0.25}
task_distribution.sources = [%digits, %two_moons]
task_distribution.depths = (1, 2)
task_distribution.widths = (5,)
task_distribution.batch_size = 8
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
  monkeypatch.setenv("UNSUP_RULE_CACHE", str(tmp_path / "cache"))
  path = tmp_path / "tiny.gin"
  path.write_text(_TINY)
  return path


def test_what_is_said_and_drawn(tiny, tmp_path, capsys):
  sheet = tmp_path / "sheet.png"
  assert cli.main(["describe", f"--config_file={tiny}", f"--out={sheet}"]) == 0
  lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
  assert "digits train 8x8x1 901 10 5- or 10-way 25% 0.1 none" in lines
  assert "two_moons train 2 1,000 2 2-way 75% 0.0 noise to 0.2 in 25%" in lines
  # W and V of 64-5-32 and of 2-5-32, and b of 5 + 32; then a layer of 5x5 more.
  assert "1 of 5 relu 997 377" in lines
  assert "2 of 5 relu 1,052 432" in lines
  text = "\n".join(lines)
  assert "3 side by side, truncated_es, 2 tasks each" in text
  assert "truncations of 1 or 3 inner steps" in text
  assert "episodes of 20 to 200 inner steps (EpisodeLengths)" in text
  assert "compiled programs: at most 8 (2 input shapes x 2 architectures x 2 truncations)" in text
  assert "an outer step: 12 inner steps" in text
  image = matplotlib.image.imread(sheet)[..., :3]
  height, width = image.shape[:2]
  # A row for each set; in that of the digits black pixels left and right, none in between.
  row = image[height // 6 : height // 2]
  left, middle, right = (row[:, i * width // 3 : (i + 1) * width // 3] for i in range(3))
  shares = [float((part == 0).all(-1).mean()) for part in (left, middle, right)]
  assert shares[0] > 0.1
  assert shares[1] < 0.01
  assert shares[2] > 0.1


@pytest.mark.slow
def test_measuring_says_what_drawing_costs(tiny, capsys):
  assert cli.main(["describe", f"--config_file={tiny}", "--measure"]) == 0
  out = capsys.readouterr().out
  measured = out[out.index("Measured") :]
  assert "2 tasks x 1 inner steps in" in measured
  assert re.search(r"memory of that on each device: \d+ MB", measured)
  assert "drawing their problems and batches alone:" in measured


@pytest.mark.parametrize(
  ("bindings", "message"),
  [
    ([], "nothing to describe; give a gin file with --config_file"),
    (["run_train.lopt = @UnsupervisedRule()"], "task_distribution.sources is not set"),
    (
      ["run_train.lopt = @UnsupervisedRule()", "task_distribution.sources = ['digits']"],
      "build_gradient_estimators.gradient_estimator_fn is not set; include a file of gin/estimator",
    ),
  ],
)
def test_what_cannot_be_described(bindings, message, capsys):
  assert cli.main(["describe", *(f"--gin_bindings={binding}" for binding in bindings)]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "describe"])
def test_a_set_that_is_trained_on_is_not_measured_on(tiny, tmp_path, command, capsys):
  arguments = [command, f"--config_file={tiny}", "--gin_bindings=trainer.heldout_fn = @HeldOut()"]
  arguments += ["--gin_bindings=HeldOut.data = 'digits'"]
  if command == "train":
    arguments.append(f"--train_log_dir={tmp_path / 'run'}")
  assert cli.main(arguments) == 2
  assert "'digits' is both trained and evaluated on" in capsys.readouterr().err


@pytest.mark.parametrize("name", _RUNS)
def test_the_whole_runs_are_read_and_keep_their_sets_apart(name):
  text = gin_files.parse([name])  # Found without its folder.
  assert "run_train.lopt = @UnsupervisedRule()" in text
  assert gin_values.bound("task_distribution.sources")
  assert gin_values.bound("HeldOut.data")
  heldout.check_configuration()


@pytest.mark.parametrize("estimator", ["bptt", "pes", "es"])
def test_estimators_take_the_place_of_each_other(estimator):
  gin_files.parse(["laptop_mixed.gin", "length/paper.gin", f"estimator/{estimator}.gin"])
  function = gin_values.bound("build_gradient_estimators.gradient_estimator_fn")
  length = "trunc_length" if estimator == "pes" else "unroll_length"
  assert gin_values.bound(f"{function.configurable.name}.{length}") == (5, 10, 20)
  assert gin_values.bound("EpisodeLengths.max_length") == 3000


def test_every_gin_file_is_in_the_table():
  table = (_GIN / "README.md").read_text()
  for path in _GIN.rglob("*.gin"):
    if path.parent.name != "evaluation":
      assert f"`{path.relative_to(_GIN)}`" in table


def test_the_folder_of_gin_files_does_not_hide_the_package():
  assert not list(_GIN.rglob("*.py"))
  assert pathlib.Path(gin.__file__).parent != _GIN


@pytest.mark.slow
def test_the_wheel_brings_gin_files_and_weights(tmp_path):
  command = "from setuptools import build_meta; print(build_meta.build_wheel({!r}))"
  files = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.splitlines()
  for name in (name for name in files if (ROOT / name).exists()):  # A build leaves its own behind.
    copy = tmp_path / "source" / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes((ROOT / name).read_bytes())
  subprocess.run(
    [sys.executable, "-c", command.format(str(tmp_path))],
    cwd=tmp_path / "source",
    capture_output=True,
    check=True,
  )
  (wheel,) = tmp_path.glob("*.whl")
  names = zipfile.ZipFile(wheel).namelist()
  shipped = {name.removeprefix("unsup_rule/") for name in names if name.endswith(".gin")}
  assert shipped == {name for name in files if re.fullmatch(r"gin/.*\.gin", name)}
  weights = {name for name in names if name.startswith("unsup_rule/weights/")}
  assert weights == {name for name in files if name.startswith("unsup_rule/weights/")}
  assert f"unsup_rule/weights/{QUICK}.npz" in weights
  assert all(name.startswith("unsup_rule") for name in names)


def test_counted_operations():
  a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
  assert needs(lambda a, b: a @ b, a, b).operations == 2 * 3 * 4 * 5
  x, k = jnp.ones((1, 10, 2)), jnp.ones((3, 2, 7))  # A valid convolution: 8 places, 7 channels.

  def convolved(x, k):
    return jax.lax.conv_general_dilated(
      x, k, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
    )

  assert needs(convolved, x, k).operations == 2 * 8 * 7 * 3 * 2

  def looped(a, flag):
    def step(carry, _):
      return jax.jit(lambda c: c @ c.T @ c)(carry), None

    a = jax.lax.scan(step, a, None, length=6)[0]
    return jax.lax.cond(flag, lambda a: a @ a.T @ a, lambda a: a, a)

  one = 2 * 3 * 4 * 3 + 2 * 3 * 3 * 4
  assert needs(looped, a, True).operations == 7 * one
  assert needs(jax.vmap(lambda a: a @ b), jnp.ones((9, 3, 4))).operations == 9 * 120


@pytest.mark.parametrize(
  ("numbers", "text"),
  [
    ((2,), "2-way"),
    ((5, 2), "2- or 5-way"),
    ((3, 4, 5), "3- to 5-way"),
    ((2, 3, 5), "2-, 3- or 5-way"),
  ],
)
def test_ways_in_words(numbers, text):
  assert ways(numbers) == text
