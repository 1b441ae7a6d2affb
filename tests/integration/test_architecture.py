"""docs/architecture.md says the truth: a real outer step goes down its table."""

import inspect
import re
import sys

import pytest
from folders import ROOT

from unsup_rule.cli.main import main

PAGE = (ROOT / "docs" / "architecture.md").read_text()
FIRST, LAST = "cli/train.py", "rule/update.py"


def told() -> list[str]:
  """Places of the table, in order."""
  rows = re.findall(r"^\| \d+ \| `?([\w/.]+)`? \|", PAGE, re.MULTILINE)
  assert len(rows) > 2
  return rows


def place(filename: str) -> str | None:
  """A source as the table calls it, or None for what is no room of the house or the library."""
  if "/learned_optimization/" in filename:
    return "learned_optimization"
  found = re.search(r"/unsup_rule/(.+)$", filename)
  return found[1] if found else None


class ArrivedError(BaseException):
  """The outer step has come to the equations."""


def test_an_outer_step_goes_down_the_table(tmp_path):
  taken: list[str] = []

  def watch(frame, event, _):
    code = frame.f_code
    body = not code.co_flags & inspect.CO_OPTIMIZED  # of a module or a class, when it is imported
    if event != "call" or body or not code.co_filename.endswith(f"/unsup_rule/{LAST}"):
      return
    callers = []
    while frame is not None:
      callers.append(place(frame.f_code.co_filename))
      frame = frame.f_back
    taken.extend(dict.fromkeys(one for one in reversed(callers) if one))
    raise ArrivedError  # Nothing need be compiled to see the way.

  settings = {
    "task_distribution.sources": "['digits']",
    "task_distribution.depths": "(1,)",
    "task_distribution.widths": "(8,)",
    "task_distribution.batch_size": "8",
    "run_train.lopt": "@UnsupervisedRule()",
    "UnsupervisedRule.top_delta_size": "4",
    "UnsupervisedRule.top_delta_layers": "0",
    "UnsupervisedRule.compute_h_size": "4",
    "UnsupervisedRule.compute_h_layers": "0",
    "UnsupervisedRule.delta_dim": "2",
    "run_train.num_steps": "1",
    "run_train.num_estimators": "1",
    "build_gradient_estimators.sample_task_family_fn": "@sample_task_family",
    "build_gradient_estimators.gradient_estimator_fn": "@truncated_grad",
    "truncated_grad.trunc_sched": "@EpisodeLengths()",
    "truncated_grad.num_tasks": "2",
    "truncated_grad.unroll_length": "2",
    "EpisodeLengths.min_length": "2",
    "EpisodeLengths.max_length": "2",
    "GradientLearner.theta_opt": "@RuleAdam()",
  }
  bindings = [f"--gin_bindings={name} = {value}" for name, value in settings.items()]
  sys.setprofile(watch)
  try:
    with pytest.raises(ArrivedError):
      main(["train", f"--train_log_dir={tmp_path / 'run'}", *bindings])
  finally:
    sys.setprofile(None)
  path = taken[taken.index(FIRST) :]
  assert path == told()
  assert path[-1] == LAST
  assert len(path) - 1 <= 9


def test_the_page_names_what_is_there():
  for name in re.findall(r"`((?:[\w]+/)+[\w]*(?:\.\w+)?)`", PAGE):
    folders = (ROOT / "unsup_rule", ROOT)
    assert any((folder / name).exists() for folder in folders), name
