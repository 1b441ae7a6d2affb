"""Gin as users know it, but strict."""

import dataclasses
import inspect
import pathlib
import sys

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization import outer_train

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import gin_files, gin_values, outer_step, settings
from unsup_rule.meta.options import RunSettings

_LOPT = "run_train.lopt = @LearnableAdam()\n"


def _write(path: pathlib.Path, text: str) -> str:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  return str(path)


def _error(tmp_path, text: str) -> str:
  """The message for a gin file with these lines after a good one."""
  with pytest.raises(UnsupRuleError) as caught:
    gin_files.parse([_write(tmp_path / "a.gin", _LOPT + text + "\n")])
  message = str(caught.value)
  assert "\n" not in message
  return message


def test_later_files_and_bindings_win(tmp_path):
  first = _write(tmp_path / "1.gin", _LOPT + "run_train.num_steps = 1\nAdam.learning_rate = 1.0\n")
  second = _write(tmp_path / "2.gin", "run_train.num_steps = 2\nAdam.beta1 = 0.5\n")
  gin_files.parse([first, second], ["Adam.beta1=0.25", 'GradientLearner.theta_opt="@Adam()"'])
  assert gin.query_parameter("run_train.num_steps") == 2
  assert gin.query_parameter("Adam.learning_rate") == 1.0
  assert gin.query_parameter("Adam.beta1") == 0.25
  assert repr(gin.query_parameter("GradientLearner.theta_opt")) == "@Adam()"
  assert gin.config_is_locked()


def test_the_text_is_what_the_user_set_and_a_whole_configuration(tmp_path):
  text = gin_files.parse([_write(tmp_path / "a.gin", _LOPT)])
  bindings = [line for line in text.splitlines() if line and not line.startswith("#")]
  assert bindings == ["run_train.lopt = @LearnableAdam()"]
  # Read again it gives itself.
  gin.clear_config()
  assert gin_files.parse([_write(tmp_path / "config.gin", text)]) == text


def test_text_is_read_without_a_file(monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", "/nowhere")
  gin_files.parse_text(_LOPT + "run_train.num_steps = 7\n")
  assert gin.query_parameter("run_train.num_steps") == 7
  assert gin.config_is_locked()


def test_text_runs_no_code_that_nobody_asked_for():
  with pytest.raises(
    UnsupRuleError, match=r"config.gin line 1: imports 'os', whose code would run"
  ):
    gin_files.parse_text("import os\n")


def test_a_binding_stays_on_one_line(tmp_path):
  long = [f"value number {index}" for index in range(100)]
  text = gin_files.parse([_write(tmp_path / "a.gin", _LOPT)], [f"SGDM.momentum = {long!r}"])
  assert f"\nSGDM.momentum = {long!r}\n" in text


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "Adamm.learning_rate = 7",
      "a.gin line 2: No configurable matching 'Adamm'; did you mean 'Adam'?",
    ),
    (
      "run_train.lopt = @LearnableAdm()",
      "line 2: No configurable matching reference '@LearnableAdm()'; did you mean 'LearnableAdam'?",
    ),
    (
      "Adam.learning_rat = 7",
      "a.gin line 2: Configurable 'Adam' doesn't have a parameter named "
      "'learning_rat'; did you mean 'learning_rate'?",
    ),
    ("trainer.sed = 1", "did you mean 'seed'?"),
    ("run_train.num_steps = ", "a.gin line 2: gin syntax: Unable to parse value."),
    ("run_train.num_steps 7", "a.gin line 2: gin syntax:"),
    ("run_train.num_steps = [1,", "a.gin"),
    (
      "import os",
      "a.gin line 2: imports 'os', whose code would run; if you trust the file, allow it with",
    ),
    ("from shutil import rmtree", "a.gin line 2: imports 'shutil', whose code would run"),
    ("import \\\n  os", "a.gin line 2: imports 'os', whose code would run"),
    ("from __gin__ import dynamic_registration", "a.gin line 2: imports '__gin__', whose"),
    ("include \\\n'b.gin'", "a.gin line 2: write an include and its path, in quotes, on one line"),
    ("import unsup_rule.none", "a.gin line 2: No module named 'unsup_rule.none'"),
    ("zzz_qqq.x = 1", "No configurable matching 'zzz_qqq'; check the spelling, or import"),
    ("run_train.num_steps = %stepz\nsteps = 3", "macro %stepz has no value; did you mean 'steps'?"),
    ("a = %b\nb = %a\nrun_train.num_steps = %a", "macro %a refers to itself"),
    ("include 'b.gin'", "a.gin line 2: no gin file 'b.gin'"),
  ],
)
def test_mistakes_are_one_line_with_the_place_and_the_nearest_name(tmp_path, text, message):
  assert message in _error(tmp_path, text)


def test_mistake_in_a_binding_and_in_an_include(tmp_path):
  with pytest.raises(UnsupRuleError, match=r"binding 'Adam.lr=1': .* it has: .*learning_rate"):
    gin_files.parse([], ["Adam.lr=1"])
  _write(tmp_path / "parts" / "inner.gin", "# A comment.\nAdamm.learning_rate = 1\n")
  message = _error(tmp_path, "include 'parts/inner.gin'")
  assert "parts/inner.gin line 2: No configurable matching 'Adamm'" in message


def test_missing_file_names_the_nearest(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _write(tmp_path / "gin" / "laptop.gin", _LOPT)
  with pytest.raises(
    UnsupRuleError, match=r"^no gin file 'gin/latpop.gin'; did you mean 'gin/laptop.gin'\?$"
  ):
    gin_files.parse(["gin/latpop.gin"])


def test_a_folder_is_no_gin_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "x.gin").mkdir()
  with pytest.raises(UnsupRuleError, match=r"gin file 'x\.gin' is a folder; give a file in it"):
    gin_files.parse(["x.gin"])


def test_dynamic_registration_is_for_those_who_allow_it(tmp_path):
  text = "from __gin__ import dynamic_registration\nfrom unsup_rule.meta import heldout\n"
  path = _write(tmp_path / "a.gin", text + "heldout.HeldOut.seeds = 3\n")
  with pytest.raises(UnsupRuleError, match="allow it with --gin_import=__gin__"):
    gin_files.parse([path])
  gin_files.parse([path], [], ["__gin__.dynamic_registration"])
  assert gin.query_parameter("HeldOut.seeds") == 3
  gin.clear_config()
  path = _write(tmp_path / "b.gin", text + "os.system.command = 3\n")
  with pytest.raises(UnsupRuleError, match="'os'"):
    gin_files.parse([path], [], ["__gin__"])


def test_missing_optimizer_and_missing_import():
  with pytest.raises(UnsupRuleError, match="not bound"):
    settings.read(gin_files.parse([], ["run_train.num_steps = 1"]))
  with pytest.raises(UnsupRuleError, match="cannot import 'no_such_module' for gin"):
    gin_files.parse([], [], ["no_such_module"])


def test_what_a_file_imports_must_be_allowed(tmp_path, monkeypatch):
  (tmp_path / "another_module_for_gin.py").write_text(
    "import gin\n@gin.configurable\ndef k(a=0): ...\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  path = _write(tmp_path / "a.gin", "import another_module_for_gin\nk.a = 3\n")
  outer = _write(tmp_path / "b.gin", "include 'a.gin'\n")
  for one in (path, outer):
    with pytest.raises(UnsupRuleError, match=r"a\.gin line 1: imports 'another_module_for_gin'"):
      gin_files.parse([one])
  assert "another_module_for_gin" not in sys.modules
  gin_files.parse([outer], [], ["another_module_for_gin"])
  assert gin.query_parameter("k.a") == 3


def test_imports_make_names_known(tmp_path, monkeypatch):
  (tmp_path / "one_module_for_gin.py").write_text(
    "import gin\n@gin.configurable\ndef my_own_knob(turns=0): return turns\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  path = _write(tmp_path / "a.gin", _LOPT + "my_own_knob.turns = 3\n")
  gin_files.parse([path], [], ["one_module_for_gin"])
  assert gin.query_parameter("my_own_knob.turns") == 3


def test_includes_are_found_beside_the_including_file(tmp_path, monkeypatch):
  """Here, beside the including file; and here first."""
  _write(tmp_path / "there" / "main.gin", _LOPT + "include 'sub/inner.gin'  # With a comment.\n")
  _write(tmp_path / "there" / "sub" / "inner.gin", 'include "leaf.gin"\n')
  _write(tmp_path / "there" / "sub" / "leaf.gin", "run_train.num_steps = 5\n")
  monkeypatch.chdir(tmp_path)
  gin_files.parse(["there/main.gin"])
  assert gin.query_parameter("run_train.num_steps") == 5
  gin.clear_config()
  _write(tmp_path / "leaf.gin", "run_train.num_steps = 6\n")
  gin_files.parse(["there/main.gin"])
  assert gin.query_parameter("run_train.num_steps") == 6


def test_macros_are_gins_own_and_expanded_in_the_text(tmp_path):
  """A reader that puts all of config.gin into a scope, as the library's does, loses macros."""
  text = gin_files.parse(
    [
      _write(
        tmp_path / "a.gin",
        _LOPT
        + """
rate = 0.5
opt = @Adam()
steps = [%rate, {'deep': (%rate, 2)}]
Adam.learning_rate = %rate
GradientLearner.theta_opt = %opt
SGDM.momentum = %steps
run_train.num_seconds = %rate
""",
      )
    ]
  )
  assert "%" not in text
  assert "Adam.learning_rate = 0.5\n" in text
  assert "GradientLearner.theta_opt = @Adam()\n" in text
  assert "SGDM.momentum = [0.5, {'deep': (0.5, 2)}]\n" in text
  assert repr(gin.query_parameter("Adam.learning_rate")) == "%rate"
  assert gin_values.bound("Adam.learning_rate") == 0.5
  assert gin_values.bound("SGDM.momentum") == [0.5, {"deep": (0.5, 2)}]
  assert settings.read(text).run.num_seconds == 0.5


def test_scopes_give_one_configurable_several_values(tmp_path):
  text = gin_files.parse(
    [
      _write(
        tmp_path / "a.gin",
        _LOPT
        + """
Adam.learning_rate = 0.25
gentle/Adam.learning_rate = 0.125
GradientLearner.theta_opt = @gentle/Adam()
""",
      )
    ]
  )
  assert "gentle/Adam.learning_rate = 0.125\n" in text
  learner = settings.read(text).make_learner()
  state = learner.init(jax.random.PRNGKey(0))
  gradient = jax.tree.map(jnp.ones_like, learner.get_state_for_worker(state).theta)
  moved = outer_step.update(learner, state, gradient, 1.0, jax.random.PRNGKey(0))
  before, after = (learner.get_state_for_worker(s).theta["log_lr"] for s in (state, moved))
  np.testing.assert_allclose(before - after, 0.125, rtol=1e-4)


@pytest.mark.parametrize(
  ("bindings", "message"),
  [
    ([], "run_train.lopt is not bound; name the optimizer"),
    (["run_train.is_worker = False"], "run_train.is_worker is False, but train does both"),
  ],
)
def test_what_settings_lack_or_cannot_be(bindings, message):
  lopt = ["run_train.lopt = @LearnableAdam()", "GradientLearner.theta_opt = @Adam()"]
  with pytest.raises(UnsupRuleError, match=message):
    settings.read(gin_files.parse((), lopt + bindings if bindings else ()))


def test_run_settings_have_the_librarys_defaults():
  parameters = inspect.signature(outer_train.run_train).parameters
  for field in dataclasses.fields(RunSettings):
    if field.name != "lopt":
      assert field.default == parameters[field.name].default, field.name


def test_changed_values_are_other_settings_and_keep_the_optimizer_that_stays_the_same():
  text = gin_files.parse(
    (), ["run_train.lopt = @LearnableAdam()", "GradientLearner.theta_opt = @Adam()"]
  )
  first = settings.read(text)
  second = settings.changed(first, ["run_train.num_steps = 7", "trainer.seed = 3"])
  assert (second.run.num_steps, second.trainer.seed) == (7, 3)
  assert (first.run.num_steps, first.trainer.seed) == (10000, 0)
  assert second.run.lopt is first.run.lopt
  third = settings.changed(second, ["LearnableAdam.initial_lr = 0.5"])
  assert third.run.lopt is not first.run.lopt
  with pytest.raises(UnsupRuleError, match=r"trainer.sed = 1.: .* did you mean .seed"):
    settings.changed(first, ["trainer.sed = 1"])
