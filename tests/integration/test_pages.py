"""Pages say the truth: examples run, commands exist, texts are short, the site builds."""

import importlib.util
import re
import tomllib
import types

import gin
import pytest
from folders import ROOT
from pages import PAGES, blocks, commands

import unsup_rule
from unsup_rule.cli import main as cli
from unsup_rule.meta import gin_files

COMMANDS = [(page, command) for page in PAGES for command in commands(page)]
SLOW = {"docs/index.md", "docs/jax.md", "docs/optimizers.md", "docs/using.md"}
WITH_EXAMPLES = [
  pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
  for page in PAGES
  if blocks(page, "python")
]
LONGER = {
  "docs/rule.md": 5000,  # the mathematics
  "README.md": 899,
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_there_are_examples():
  assert len(WITH_EXAMPLES) >= 4
  assert len(COMMANDS) >= 15


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_run(page, tmp_path, monkeypatch):
  """Those of a page follow each other."""
  monkeypatch.chdir(tmp_path)  # where they write
  names = {}
  for example in blocks(page, "python"):
    exec(compile(example, page, "exec"), names)
  assert "unsup_rule" in names or "UnsupervisedFeatures" in names


@pytest.mark.parametrize(
  ("page", "command"), COMMANDS, ids=[f"{page}: {' '.join(c[:3])}" for page, c in COMMANDS]
)
def test_command_is_one(page, command, monkeypatch):
  """Every flag, target and file is known; what the commands do is tested where they live."""
  program, *arguments = command
  if program == "unsup-rule":
    _check_own(arguments, monkeypatch)
  elif program == "make":
    assert set(arguments) <= TARGETS
  elif program == "pip":
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
      assert set(extra.split(",")) <= set(EXTRAS)
  elif program == "python":
    assert arguments[0] == "-m"
    assert importlib.util.find_spec(arguments[1])
  else:
    assert program in {".ci/run", "pre-commit", "git"}, command


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "gin")])
def test_gin_is_known(page):
  """Every name, parameter and file."""
  for text in blocks(page, "gin"):
    gin.clear_config()
    gin_files.parse_text(text, ["unsup_rule.evaluation.suite"])


def _check_own(arguments, monkeypatch):
  seen = []
  module = cli.importlib.import_module(cli.COMMANDS[arguments[0]][0])
  monkeypatch.setattr(module, "run", lambda arguments: seen.append(arguments) or 0)
  assert cli.main(arguments) == 0
  assert seen
  for name in re.findall(r"=?(\S+\.gin)\b", " ".join(arguments)):
    name = name.removeprefix("--config_file=")
    assert (ROOT / name).exists() or (ROOT / "gin" / name).exists(), name
  for name in re.findall(r"tests/\S+\.npz", " ".join(arguments)):
    assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_page_is_short(page):
  lines = PAGES[page].splitlines()
  if page == "docs/results.md":  # The program's; its tables are looked up, not read.
    lines = [line for line in lines if not line.startswith("|")]
  assert sum(len(line.split()) for line in lines) <= LONGER.get(page, 1200)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_code_is_as_wide_as_the_site(page):
  code = [text for language in ("", "python", "gin") for text in blocks(page, language)]
  assert [line for line in "".join(code).splitlines() if len(line) > 84] == []


def test_site_builds_strictly(tmp_path):
  """Every link, anchor and docstring of the reference is found."""
  config = pytest.importorskip("mkdocs.config")
  build = importlib.import_module("mkdocs.commands.build")
  loaded = config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
  loaded.plugins.on_startup(command="build", dirty=False)
  build.build(loaded)
  rule = (tmp_path / "rule.html").read_text()
  assert rule.count("<math") > 200
  assert "arithmatex" not in rule
  numbers = re.findall(r"\\tag\{(.*?)\}", PAGES["docs/rule.md"])
  assert len(numbers) > 25
  assert [number for number in numbers if f"<mtext>({number})</mtext>" not in rule] == []
  reference = (tmp_path / "api.html").read_text()
  public = {name: getattr(unsup_rule, name) for name in dir(unsup_rule) if name[0] != "_"}
  own = [name for name, value in public.items() if not isinstance(value, types.ModuleType)]
  assert len(own) > 12
  missing = [name for name in own if not re.search(rf'id="unsup_rule\.[\w.]+\.{name}"', reference)]
  assert missing == []
