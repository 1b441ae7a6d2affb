"""The wheel, built and used in a bare environment, as `pip install unsup-rule` gives it.

$WHEEL_PYTHON names another Python than the one that runs the tests; `make wheel-check` tries all.
"""

import importlib.util
import os
import re
import subprocess
import sys
import time

import pytest
from folders import ROOT

MOST_WHEEL_BYTES = 2_000_000
MOST_MEGABYTES = 700
# What the commands of pip print where no index can be reached.
NO_INDEX = ("No matching distribution found", "Could not find a version", "Connection")
EXAMPLE = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]


def run(*command, **options):
  return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  if importlib.util.find_spec("build") is None:
    pytest.skip("the package build is not installed")
  out = tmp_path_factory.mktemp("dist")
  done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
  assert done.returncode == 0, done.stderr
  (found,) = out.glob("*.whl")
  assert list(out.glob("*.tar.gz"))
  return found


@pytest.mark.slow
def test_the_wheel_is_small(wheel):
  assert wheel.stat().st_size < MOST_WHEEL_BYTES


@pytest.mark.slow
def test_an_index_would_take_wheel_and_source(wheel):
  """Their metadata are valid, and the README is rendered without a warning."""
  pytest.importorskip("twine")
  done = run(sys.executable, "-m", "twine", "check", "--strict", *wheel.parent.iterdir())
  assert done.returncode == 0, done.stdout
  assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_is_used_in_a_bare_environment(wheel, tmp_path):
  assert "UnsupervisedFeatures" in EXAMPLE
  folder = tmp_path / "bare"
  python = folder / "bin" / "python"
  done = run(os.environ.get("WHEEL_PYTHON", sys.executable), "-m", "venv", folder)
  assert done.returncode == 0, done.stderr
  began = time.monotonic()
  # A checkout on PYTHONPATH would pass for an installed package; the flags are for the tests' jax.
  environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
  done = run(python, "-m", "pip", "install", wheel, env=environment)
  if done.returncode and any(words in done.stderr for words in NO_INDEX):
    pytest.skip(f"no index: {done.stderr.splitlines()[-1]}")
  assert done.returncode == 0, done.stderr
  seconds = time.monotonic() - began
  packages = next((folder / "lib").glob("python3*/site-packages"))
  megabytes = int(run("du", "-sm", packages).stdout.split()[0])
  print(f"{python.resolve()}: {seconds:.0f} s, {megabytes} MB")
  assert megabytes < MOST_MEGABYTES
  code = EXAMPLE + "\nprint(embedded.shape)"
  done = run(python, "-c", code, cwd=tmp_path, env=environment)
  assert (done.returncode, done.stdout) == (0, "(1797, 32)\n"), done.stderr
  done = run(
    folder / "bin" / "unsup-rule",
    "train",
    "--train_log_dir=x",
    "--gin_bindings=a.b=1",
    cwd=tmp_path,
    env=environment,
  )
  assert done.returncode == 2
  assert "pip install 'unsup-rule[train]'" in done.stderr
