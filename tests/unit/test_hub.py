"""Rules on the Hugging Face Hub, from a folder laid out as its cache, without a network."""

import os
import subprocess
import sys

import pytest
from folders import ROOT

from unsup_rule import pretrained
from unsup_rule.errors import UnsupRuleError

CODE = """
from unsup_rule import pretrained
from unsup_rule.errors import UnsupRuleError
rule = pretrained("hf://somebody/laptop")
assert rule.sha256 == pretrained("laptop").sha256
print(rule.name, rule.card)
try:
  pretrained("hf://somebody/else")
except UnsupRuleError as error:
  print(error)
"""


def test_a_rule_in_the_cache_is_loaded(tmp_path):
  pytest.importorskip("huggingface_hub")
  repository = tmp_path / "models--somebody--laptop"
  snapshot = repository / "snapshots" / ("0" * 40)
  snapshot.mkdir(parents=True)
  (repository / "refs").mkdir()
  (repository / "refs" / "main").write_text("0" * 40)
  pretrained("laptop").write(snapshot / "rule.npz")
  (snapshot / "README.md").write_text("The card.")
  settings = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
  path = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
  done = subprocess.run(
    [sys.executable, "-c", CODE], env=os.environ | settings | path, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  first, second = done.stdout.splitlines()
  assert first == "hf://somebody/laptop The card."
  assert second.startswith("cannot get hf://somebody/else; check ")


def test_what_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as Python marks what is not there
  with pytest.raises(UnsupRuleError, match=r"not installed; run pip install huggingface_hub$"):
    pretrained("hf://somebody/laptop")
  with pytest.raises(UnsupRuleError, match=r"hf://laptop names no repository.*hf://owner/name"):
    pretrained("hf://laptop")
