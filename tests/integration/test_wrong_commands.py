"""Commands that cannot do what they are asked for: one line each, and nothing is overwritten."""

import os
import re

import gin
import jax
import meta_problems
import numpy as np
import pytest
from shipped import QUICK

from unsup_rule.cli.main import main
from unsup_rule.distributed import learner
from unsup_rule.distributed.meta_parameters import MetaParameterStore
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import loop, run_folder
from unsup_rule.weights.pretrained import pretrained

SUITE = ["evaluate", "--config_file=evaluation/smoke.gin", "--rule=none"]


def refused(capsys, *arguments) -> str:
  gin.clear_config()  # As in a process of its own.
  assert main([str(argument) for argument in arguments]) == 2
  error = capsys.readouterr().err
  assert error.startswith("unsup-rule: error: ")
  assert error.count("\n") == 1
  return error


def test_an_empty_argument_is_no_current_folder(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for arguments in (
    ["train", "--config_file=smoke.gin", "--train_log_dir="],
    ["export", f"--rule={QUICK}", "--out", ""],
    ["rules", ""],
  ):
    assert "an argument is empty" in refused(capsys, *arguments)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("command", "suffix"),
  [(["report", "run"], ".html"), (["describe", "--config_file=smoke.gin"], ".png")],
)
def test_a_picture_or_page_replaces_no_other_file(tmp_path, capsys, command, suffix):
  (tmp_path / "mine.gin").write_text("precious")
  message = refused(capsys, *command, f"--out={tmp_path / 'mine.gin'}")
  assert f"give a file that ends in {suffix}" in message
  assert (tmp_path / "mine.gin").read_text() == "precious"


@pytest.mark.parametrize(
  ("flag", "value", "message"),
  [
    ("--page", "a.md", "a.md; give a file that ends in .md"),
    ("--page", "out/results.md", "give one outside of --out"),
    ("--table", "none.md", "cannot read .*none.md: No such file"),
    ("--table", "latin.md", "it is no text in UTF-8"),
    ("--table", "plain.md", "has no <!-- results -->"),
    ("--out", "run", "run holds a run; choose another --out"),
  ],
)
def test_what_an_evaluation_would_stumble_on_at_its_end(tmp_path, capsys, flag, value, message):
  (tmp_path / "a.md").mkdir()
  (tmp_path / "plain.md").write_text("no marks")
  (tmp_path / "latin.md").write_bytes(b"\xe9")
  (tmp_path / "run").mkdir()
  for name in ("params", ".lock"):
    (tmp_path / "run" / name).write_text("")
  error = refused(capsys, *SUITE, f"--out={tmp_path / 'out'}", flag, tmp_path / value)
  assert re.search(message, error)
  assert not (tmp_path / "out").exists()
  assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "params"]


def test_what_an_evaluation_has_no_use_for(tmp_path, capsys):
  out = f"--out={tmp_path / 'out'}"
  against = [f"--rule={QUICK}", f"--against={QUICK}"]
  assert "set evaluate.score = True" in refused(capsys, *SUITE, *against, out)
  for_training = ["evaluate", "--config_file=laptop.gin", "--rule=none", out]
  assert "says nothing of evaluate" in refused(capsys, *for_training)
  assert not list(tmp_path.iterdir())


def test_a_run_is_not_trained_in_a_folder_of_an_evaluation(tmp_path):
  (tmp_path / "results.jsonl").write_text("")
  (tmp_path / "config.gin").write_text("of the evaluation")
  with pytest.raises(UnsupRuleError, match="holds an evaluation; choose another --train_log_dir"):
    loop.train(tmp_path, meta_problems.settings(None))
  assert (tmp_path / "config.gin").read_text() == "of the evaluation"


def test_nor_is_one_launched_there(tmp_path, capsys):
  (tmp_path / "results.jsonl").write_text("")
  command = ["launch", "--config_file=smoke.gin", "--workers=1", f"--train_log_dir={tmp_path}"]
  assert "holds an evaluation; choose another --train_log_dir" in refused(capsys, *command)
  assert not (tmp_path / "config.gin").exists()


def _settings(num_steps=2, text="# The configuration.\n", **trainer):
  def sample(lopt, key, number):
    return [meta_problems.FakeEstimator() for _ in range(number)]

  return meta_problems.settings(sample, trainer=trainer, num_steps=num_steps)


def test_train_and_launch_leave_each_other_s_runs_alone(tmp_path):
  loop.train(tmp_path, _settings())
  before = {path.name: path.read_bytes() for path in tmp_path.glob("checkpoint_*")}
  with pytest.raises(UnsupRuleError, match=r"step 2 in .* is of a run of train; go on with train"):
    learner.Learner(tmp_path, _settings(num_steps=4), 1)
  assert {path.name: path.read_bytes() for path in tmp_path.glob("checkpoint_*")} == before


def test_a_run_that_is_complete_is_checked_too(tmp_path):
  loop.train(tmp_path, _settings(seed=0))
  with pytest.raises(UnsupRuleError, match=r"was not made with trainer\.seed = 1"):
    loop.train(tmp_path, _settings(seed=1))


def test_what_is_bound_otherwise_than_before_is_said(tmp_path, capsys):
  before = "# Parameters:\na.b = 1\na.c = 2\nrun_train.num_steps = 3\n"
  (tmp_path / "config.gin").write_text(before)
  run_folder.tell_changes(tmp_path, "a.b = 1\na.d = 'x = y'\nrun_train.num_steps = 4\n")
  assert capsys.readouterr().err == (
    "other than before: a.c = not bound (before: 2); a.d = 'x = y' (before: not bound)\n"
  )
  run_folder.tell_changes(tmp_path, before)
  run_folder.tell_changes(tmp_path / "none", before)
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["params", "config.gin", "rule.npz"])
def test_an_export_to_a_folder_is_whole_or_nothing(tmp_path, capsys, name):
  (tmp_path / name).write_text("precious")
  message = refused(capsys, "export", f"--rule={QUICK}", f"--out={tmp_path}")
  assert f"{name} exists already" in message
  assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_an_export_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
  def full(folder, rule):
    raise UnsupRuleError("no room")

  monkeypatch.setattr(run_folder.run_folder, "write", full)
  with pytest.raises(UnsupRuleError, match="no room"):
    run_folder.write_rule(tmp_path, pretrained(QUICK))
  assert not list(tmp_path.iterdir())


def test_gin_files_and_modules_that_cannot_be_read(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "loop.gin").write_text("include 'loop.gin'\n")
  (tmp_path / "latin.gin").write_bytes(b"\xff = 1\n")
  os.symlink("nowhere", tmp_path / "leads_nowhere.gin")
  for arguments, message in (
    (["--config_file=loop.gin"], "loop.gin: a file includes itself"),
    (["--config_file=latin.gin"], "latin.gin is no text in UTF-8; save it as such"),
    (["--config_file=leads_nowhere.gin"], "no gin file 'leads_nowhere.gin'; did you mean 's"),
    (["--config_file=smoke.gin", "--gin_import=.a"], "cannot import '.a' for gin"),
    (["--config_file=smoke.gin", "--gin_bindings=nope\n.b=1"], "binding 'nope': "),
    (["--config_file=smoke.gin", f"--gin_bindings=trainer.seed={10**20}"], "at most 18 digits"),
  ):
    assert message in refused(capsys, "train", "--train_log_dir=run", *arguments)
  assert not (tmp_path / "run").exists()


def test_a_path_that_the_system_refuses_is_one_line(capsys):
  assert "File name too long; give another path" in refused(capsys, "rules", "x" * 5000 + ".npz")


def test_a_token_without_a_cluster(tmp_path, capsys):
  command = ["launch", "--config_file=smoke.gin", "--workers=1", "--token_file=token"]
  message = refused(capsys, *command, f"--train_log_dir={tmp_path / 'run'}")
  assert "--token_file is of a cluster; give its --address too" in message
  assert not list(tmp_path.iterdir())


def test_status_of_a_run_of_train(tmp_path, capsys):
  (tmp_path / "params").write_text("")
  assert "try unsup-rule report" in refused(capsys, "status", tmp_path)


def test_the_store_of_a_learner_starts_from_nothing():
  """What the check above compares with: a learner's own state says whose it is."""
  store = MetaParameterStore(_settings())
  with pytest.raises(UnsupRuleError, match="is of a run of train"):
    learner._restore(store, {"step": 1, "root_key": np.asarray(jax.random.PRNGKey(0))}, 0, "here")
