"""The examples and the notebooks run, at reduced size."""

import importlib.util
import re

import nbclient
import nbformat
import pytest
from folders import ROOT
from other_libraries import require_flax_nnx

SMALL = {
  "pipeline": {"folds": 3, "labelled": 50},
  "other_optimizers": {"steps": 20},
  "fine_tuning": {},  # Takes two seconds as it is.
  "equinox_mlp": {},
  "flax_nnx": {},
  "at_a_glance": {},
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_every_example_is_run():
  assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SMALL)
  assert len(NOTEBOOKS) == 2


def run(name, **more):
  spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.main(**SMALL[name], **more)


@pytest.mark.slow
def test_pipeline():
  accuracy = run("pipeline")
  assert accuracy["the rule"] > accuracy["untrained"] + 0.05
  assert accuracy["pipeline"] > 0.7


@pytest.mark.slow
def test_other_optimizers():
  accuracy = run("other_optimizers")
  # SGD with the rule's own learning rate is the rule itself.
  assert accuracy["LearnableSGD"] == pytest.approx(accuracy["the rule's own step"], abs=0.02)
  assert min(accuracy.values()) > 0.5


@pytest.mark.slow
def test_fine_tuning():
  accuracy = run("fine_tuning")
  assert accuracy["from the rule"] > accuracy["from random weights"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "place"), [("equinox_mlp", 0), ("flax_nnx", 1)])
def test_models_of_other_libraries(name, place):
  """As the page says, in its order."""
  if name == "flax_nnx":
    require_flax_nnx()
  accuracy = run(name)
  assert accuracy["trained"] > accuracy["untrained"] + 0.1
  page = (ROOT / "docs" / "jax.md").read_text()
  trained, untrained = re.findall(r"(\.\d{3}) in place of (\.\d{3})", page)[place]
  assert accuracy["trained"] == pytest.approx(float(trained), abs=0.01)
  assert accuracy["untrained"] == pytest.approx(float(untrained), abs=0.01)


@pytest.mark.slow
def test_at_a_glance(tmp_path):
  path = tmp_path / "figure.png"
  accuracy = run("at_a_glance", path=path)
  assert list(accuracy) == [0, 10, 30, 100]
  assert accuracy[100] > accuracy[10] > accuracy[0] + 0.2
  assert path.stat().st_size < 200_000
  assert (ROOT / "docs" / "at_a_glance.png").stat().st_size < 200_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_whole_and_lean(path):
  notebook = nbformat.read(path, as_version=4)
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  assert any("image/png" in output.get("data", {}) for output in outputs)
  assert not any(
    output.output_type == "error" or output.get("name") == "stderr" for output in outputs
  )
  assert path.stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv("UNSUP_RULE_SMALL", "1")
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute()
