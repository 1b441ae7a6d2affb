"""What a light installation does, and how it names what it lacks, without uninstalling anything."""

import os
import subprocess
import sys

import pytest
from folders import ROOT
from shipped import DEFAULT, QUICK

from unsup_rule import extras

# Refuses the modules of all extras, as an installation without them does.
LIGHT = """
import sys
from unsup_rule.extras import EXTRAS
OTHERS = {module for modules in EXTRAS.values() for module in modules}
class Missing:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in OTHERS:
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from unsup_rule.cli.main import main
from unsup_rule.errors import UnsupRuleError
"""
TRAIN = "run pip install 'unsup-rule[train]' and then pip install --no-deps learned-optimization"


def light(code):
  return subprocess.run(
    [sys.executable, "-c", LIGHT + code],
    capture_output=True,
    text=True,
    timeout=300,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )


def test_commands_name_the_extra(tmp_path):
  """And those that need none run."""
  code = f"""
folder = {str(tmp_path)!r}
for argv in (
  ["train", "--config_file=gin/smoke.gin", f"--train_log_dir={{folder}}/run"],
  ["evaluate", "--config_file=gin/evaluation/smoke.gin", f"--out={{folder}}/results"],
  ["describe", "--config_file=gin/smoke.gin"],
  ["launch", "--config_file=gin/smoke.gin", "--workers=1", f"--train_log_dir={{folder}}/run"],
  ["import-tf", "tests/golden/default_ckpt/tf_graph_data.ckpt", f"{{folder}}/imported"],
):
  assert main(argv) == 2, argv
assert main(["export", "--rule={QUICK}", f"--out={{folder}}/a.npz"]) == 0
assert main(["rules"]) == 0
for name in ("MLPTaskFamily", "UnsupervisedRule", "optax_transformation", "load"):
  try:
    getattr(__import__("unsup_rule"), name)
  except UnsupRuleError as error:
    print(error, file=sys.stderr)
"""
  done = light(code)
  assert done.returncode == 0, done.stderr
  lines = [line for line in done.stderr.splitlines() if " needs " in line]
  assert len(lines) == len(done.stderr.splitlines()) == 9, done.stderr
  for line, name in zip(lines[:3], ("train", "evaluate", "describe"), strict=True):
    assert line.startswith(f"unsup-rule: error: unsup-rule {name} needs ")
    assert TRAIN in line
  assert "unsup-rule[" in lines[3]
  assert "unsup-rule import-tf needs " in lines[4]
  for line, name in zip(
    lines[5:], ("MLPTaskFamily", "UnsupervisedRule", "optax_transformation", "load"), strict=True
  ):
    assert line.startswith(f"unsup_rule.{name} needs ")
    assert TRAIN in line


def test_a_rule_is_applied_in_a_light_installation():
  done = light("""
import jax, unsup_rule
from unsup_rule import MLP, UnsupervisedFeatures, pretrained, step
mlp = MLP(3, (), 32)
print(len(jax.tree.leaves(mlp.init(jax.random.PRNGKey(0)))), pretrained().name, callable(step))
""")
  assert (done.returncode, done.stdout) == (0, f"3 {DEFAULT} True\n"), done.stderr


@pytest.mark.parametrize(("module", "extra"), [("tensorflow", "tf"), ("umap", "umap")])
def test_one_place_names_the_extra(module, extra):
  done = light(f"""
from unsup_rule import extras
try:
  extras.needed({module!r}, "this")
except UnsupRuleError as error:
  print(error)
""")
  assert done.stdout == f"this needs {module}, which is not installed; {extras.remedy(extra)}\n"


def test_a_module_of_no_extra_is_python_s_own_error():
  with pytest.raises(ModuleNotFoundError, match="no_such_module"):
    extras.needed("no_such_module", "a test")
  assert extras.needed("math", "a test").pi > 3
