"""The README's examples run, and its commands exist."""

import re
import shlex

import pytest
from folders import ROOT

from unsup_rule.cli import main as cli

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
  shlex.split(command.replace("\\\n", " "))
  for command in re.findall(r"^unsup-rule (?:.*\\\n)*.*", README, re.MULTILINE)
]


def test_there_are_examples():
  assert len(EXAMPLES) >= 2
  assert len(COMMANDS) >= 4


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example):
  exec(compile(example, "README.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(c[1:3]) for c in COMMANDS])
def test_command_parses(command, monkeypatch):
  """Every flag is known; what the commands do is tested where they live."""
  seen = []
  module = cli.importlib.import_module(cli.COMMANDS[command[1]][0])
  monkeypatch.setattr(module, "run", lambda arguments: seen.append(arguments) or 0)
  assert cli.main(command[1:]) == 0
  assert seen
  for name in re.findall(r"\S+\.(?:gin|npz)", " ".join(command)):
    path = ROOT / name.removeprefix("--config_file=")
    assert path.exists(), path
