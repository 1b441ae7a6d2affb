"""A value of the wrong type in a gin file is one line, before anything is made or written."""

import typing
from collections.abc import Callable, Mapping, Sequence

import gin
import pytest

from unsup_rule import hints
from unsup_rule.cli.main import main
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import gin_files, settings
from unsup_rule.tasks.sources import DatasetSpec


@gin.configurable(module="test_gin_types")
def loosely(quickly: bool = None, anything=3, *, later: "NotImported" = 1):  # noqa: F821, RUF013
  """What its annotations cannot tell is not checked."""


@gin.configurable(module="test_gin_types")
def unsaid(count: int = None, of: Sequence[str] = ()):  # noqa: RUF013
  """As old code says that None is a default."""


@gin.configurable(module="test_gin_types")
def no_types(one: any = None, other: int = 2):  # noqa: RUF013
  """As somebody writes who takes annotations for comments."""


@gin.configurable(module="test_gin_types")
def nor_this(one: any, other: 3 = 2):
  """The same, where it does not show when annotations are read."""


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("trainer.seed = 1.5", "gin: trainer.seed is 1.5; it takes int"),
    ("run_train.num_steps = 'many'", "gin: run_train.num_steps is 'many'; it takes int"),
    ("other/trainer.seed = None", "gin: other/trainer.seed is None; it takes int"),
    ("trainer.seed = %seeds\nseeds = (1, 2)", r"gin: trainer.seed is \(1, 2\); it takes int"),
    ("truncated_grad.unroll_length = (5, 'x')", r"it takes int \| Sequence\[int\]"),
    ("trainer.phases = []", r"it takes Mapping\[int, Sequence\[str\]\]"),
    ("UnsupervisedRule.initial_coefficients = {'hebb': 'x'}", r"Mapping\[str, float\] \| None"),
    ("task_distribution.sources = 'glyphs'", "task_distribution.sources is 'glyphs'"),
    ("ConstantTruncationSchedule.total_length = None", "is None; it takes int"),
    ("run_train.lopt = @Adam()", "run_train.lopt is @Adam(); .*LearnedOptimizer"),
    ("run_train.lopt = @LearnableAdam", "run_train.lopt is @LearnableAdam; .*LearnedOptimizer"),
    ("GradientLearner.theta_opt = @LearnableAdam()", "it takes Optimizer"),
    ("GradientLearner.theta_opt = %opt\nopt = @Adam", "theta_opt is @Adam; it takes Optimizer"),
    ("trainer.heldout_fn = 3", r"it takes Callable\["),
    ("trainer.heldout_fn = @EpisodeLengths()", r"it takes Callable\["),
    ("unsaid.count = 'x'", r"unsaid.count is 'x'; it takes int \| None"),
    ("unsaid.of = 'text'", r"unsaid.of is 'text'; it takes Sequence\[str\]"),
  ],
)
def test_wrong_types_are_named(binding, message):
  message = message.replace("()", r"\(\)")
  with pytest.raises(UnsupRuleError, match=message):
    gin_files.parse(bindings=["run_train.lopt = @LearnableAdam()", *binding.split("\n")])


@pytest.mark.parametrize(
  "binding",
  [
    "trainer.seed = True",
    "trainer.checkpoint_every_seconds = 3",
    "trainer.heldout_fn = @HeldOut()",
    "trainer.heldout_fn = @one/singleton()",
    "build_gradient_estimators.gradient_estimator_fn = @TruncatedGrad",
    "task_distribution.sources = ['glyphs', {'name': @EpisodeLengths()}]",
    "run_train.lopt = 'folder'",
    "unsaid.count = None",
    "loosely.anything = 'x'",
    "loosely.quickly = 'x'",
    "loosely.later = 'x'",
    "no_types.one = 'x'",
    "nor_this.one = 'x'",
    "nor_this.other = 'x'",
    "Adam.learning_rate = (1, 2)",
  ],
)
def test_what_may_be_right_is_let_through(binding):
  gin_files.parse(bindings=[binding])


def test_a_phase_is_checked_like_a_file():
  gin_files.parse(bindings=["run_train.lopt = @LearnableAdam()"])
  with (
    pytest.raises(UnsupRuleError, match=r"gin: run_train\.num_estimators is 'x'"),
    gin_files.tried(["run_train.num_estimators = 'x'"]),
  ):
    pass
  assert gin.get_bindings("run_train").keys() == {"lopt"}


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("run_train.num_estimators = 0", "run_train.num_estimators is 0; give a positive number"),
    ("run_train.num_steps = -1", "run_train.num_steps is -1; give 0 or more"),
    ("run_train.num_seconds = -0.5", "run_train.num_seconds is -0.5; give 0 or more"),
    ("run_train.staleness = -1", "run_train.staleness is -1"),
    ("trainer.heldout_fn = @HeldOut", r"is the class HeldOut; write @HeldOut\(\)"),
    ("trainer.validation_fn = @HeldOut", r"trainer.validation_fn is the class HeldOut"),
  ],
)
def test_values_out_of_range_are_named(binding, message):
  with pytest.raises(UnsupRuleError, match=message):
    settings.read(gin_files.parse(bindings=["run_train.lopt = @LearnableAdam()", binding]))


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"noise": "x"}, "data set 'glyphs': noise is 'x'; it takes float"),
    ({"weight": None}, "weight is None; it takes float"),
    ({"split": 3}, "split is 3; it takes str"),
    ({"name": 3}, "data set 3: name is 3; it takes str"),
    ({"_": 3}, "has an unknown setting '_'"),
  ],
)
def test_settings_of_a_data_set_are_checked(setting, message):
  with pytest.raises(UnsupRuleError, match=message):
    DatasetSpec.from_settings({"name": "glyphs"} | setting)


def test_train_says_it_before_it_makes_a_folder(tmp_path, capsys):
  folder = tmp_path / "runs" / "a"
  wrong = "--gin_bindings=run_train.num_steps='x'"
  assert main(["train", "--config_file=smoke.gin", f"--train_log_dir={folder}", wrong]) == 2
  assert capsys.readouterr().err == (
    "unsup-rule: error: gin: run_train.num_steps is 'x'; it takes int\n"
  )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("value", "hint", "fits"),
  [
    (1, float, True),
    (1.0, int, False),
    ([1, 2], Sequence[int], True),
    ([1, "2"], Sequence[int], False),
    ("12", Sequence[str], False),
    ("12", str | Sequence[str], True),
    ([1], tuple[int, ...], False),
    ({"a": {1: 2.0}}, Mapping[str, Mapping[int, float]], True),
    ({"a": {1: "x"}}, Mapping[str, Mapping[int, float]], False),
    (len, Callable, True),
    (None, typing.Optional[int], True),  # noqa: UP045
  ],
)
def test_values_fit_hints(value, hint, fits):
  assert hints.fits(value, hint) == fits


def test_hints_are_told_without_modules():
  assert hints.told(int) == "int"
  assert hints.told(Sequence[DatasetSpec] | None) == "Sequence[DatasetSpec] | None"
