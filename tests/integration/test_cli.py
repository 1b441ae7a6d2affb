"""The command line: exit codes and errors of one line."""

import meta_problems
import pytest
from shipped import QUICK

from unsup_rule.cli import main as cli
from unsup_rule.weights.pretrained import DEFAULT, names, pretrained


def _error(capsys, *arguments) -> str:
  assert cli.main(["train", *arguments]) == 2
  errors = capsys.readouterr().err
  assert errors.count("\n") == 1
  return errors


def test_errors_are_one_line(tmp_path, capsys):
  folder = f"--train_log_dir={tmp_path / 'run'}"
  assert _error(capsys, folder).startswith("unsup-rule: error: nothing to train; ")
  assert "no gin file 'lost.gin'" in _error(capsys, folder, "--config_file=lost.gin")
  assert "did you mean 'Adam'?" in _error(capsys, folder, "--gin_bindings=Adamm.beta1=0")
  (tmp_path / "file").write_text("")
  assert _error(
    capsys, f"--train_log_dir={tmp_path / 'file' / 'run'}", "--gin_bindings=Adam.beta1=0"
  ) == (
    f"unsup-rule: error: cannot write in {tmp_path}/file/run: Not a directory; choose another "
    "--train_log_dir\n"
  )
  assert not (tmp_path / "run" / "params").exists()


def test_an_error_inside_a_configurable_is_one_line(tmp_path, capsys):
  """Gin adds lines of its own to what passes through it."""
  (tmp_path / "a.gin").write_text(meta_problems.GIN)
  message = _error(
    capsys,
    f"--train_log_dir={tmp_path / 'run'}",
    f"--config_file={tmp_path / 'a.gin'}",
    "--gin_import=meta_problems",
    "--gin_bindings=trainer.checkpoint_every_seconds=-2",
  )
  assert message == (
    "unsup-rule: error: trainer.checkpoint_every_seconds is -2; give a positive number\n"
  )


def test_what_gin_lacks_is_named(tmp_path, capsys):
  message = _error(
    capsys, f"--train_log_dir={tmp_path / 'run'}", "--gin_bindings=run_train.lopt=@LearnableAdam()"
  )
  assert "GradientLearner needs a value for 'theta_opt'" in message


def test_roles_of_the_distributed_trainer_are_refused(tmp_path, capsys):
  message = _error(
    capsys,
    f"--train_log_dir={tmp_path / 'run'}",
    "--gin_bindings=run_train.lopt=@LearnableAdam()",
    "--gin_bindings=run_train.is_worker=False",
  )
  assert "run_train.is_worker is False" in message


def test_usage_names_the_commands(capsys):
  with pytest.raises(SystemExit) as caught:
    cli.main(["--help"])
  assert caught.value.code == 0
  assert "train" in capsys.readouterr().out
  with pytest.raises(SystemExit) as caught:
    cli.main([])
  assert caught.value.code == 2


def test_unknown_errors_keep_their_traceback(monkeypatch, tmp_path):
  monkeypatch.setattr("unsup_rule.cli.train.run", lambda arguments: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    cli.main(["train", f"--train_log_dir={tmp_path}"])


def test_rules_are_listed_with_what_their_cards_say(capsys):
  assert cli.main(["rules"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == names()
  assert [line for line in lines if line.startswith(f"{DEFAULT} (default)  ")]
  assert sum("(default)" in line for line in lines) == 1
  for name, line in zip(names(), lines, strict=True):
    about = line.split("  ")[-1]
    assert 20 < len(about) < 120
    assert f"\n\n{about}" in pretrained(name).card


def test_a_rule_s_card_is_printed(capsys, tmp_path):
  assert cli.main(["rules", QUICK]) == 0
  assert capsys.readouterr().out == pretrained(QUICK).card
  pretrained(QUICK).write(tmp_path / "mine.npz")
  assert cli.main(["rules", str(tmp_path / "mine.npz")]) == 2
  assert "mine.npz has no card beside it; unsup-rule export" in capsys.readouterr().err
  assert cli.main(["rules", QUICK.replace("a", "o")]) == 2
  assert f"did you mean '{QUICK}'?" in capsys.readouterr().err
