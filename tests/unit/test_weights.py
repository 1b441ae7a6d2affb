"""The file that a rule is shipped in, the ways to load one, and `unsup-rule export`."""

import copy
import dataclasses
import hashlib
import io
import json
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from evaluation_helpers import SIZES, rule_folder
from rule_helpers import drawn_theta
from shipped import DEFAULT, QUICK

import unsup_rule
from unsup_rule.cli.main import main
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import provenance
from unsup_rule.meta import checkpoint, gin_files, run_folder, settings
from unsup_rule.meta.checkpoint import load_theta
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.weights.archive import Archive, Use, digest
from unsup_rule.weights.pretrained import names

SMALL = dataclasses.asdict(SIZES)
TYPO = QUICK.replace("a", "o")


@pytest.fixture(scope="module")
def archive():
  theta = jax.tree.map(np.asarray, drawn_theta(SIZES, 0))
  return Archive(theta, InnerSchedule(3e-3, 100.0), Use(40, 16), {"gin": "a = 1\n", "seed": 3})


@pytest.fixture
def path(archive, tmp_path):
  archive.write(tmp_path / "rule.npz")
  return tmp_path / "rule.npz"


def test_comes_back_as_it_was(archive, path):
  found = Archive.read(path)
  assert (found.schedule, found.use) == (archive.schedule, archive.use)
  assert found.sizes == SIZES
  assert found.provenance == archive.provenance
  jax.tree.map(np.testing.assert_array_equal, found.theta, archive.theta)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(found.theta)} == {"float32"}


def test_same_content_makes_the_same_bytes(archive, path, tmp_path):
  archive.write(tmp_path / "again.npz")
  assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_numpy_alone_reads_it_without_pickle(archive, path):
  with np.load(path, allow_pickle=False) as found:
    header = json.loads(bytes(found["header"]))
    np.testing.assert_array_equal(found["linear/w"], archive.theta["linear"]["w"])
  assert header["format"] == 2
  assert header["arrays"]["linear/w"] == {"shape": [4, 2], "dtype": "float32"}
  assert header["sha256"] == digest(archive.theta)


def rewritten(path, change):
  """Applies `change(header, arrays)` to a file, as a program that does not know of sums might."""
  with np.load(path) as found:
    arrays = {name: found[name] for name in found.files}
  header = json.loads(bytes(arrays.pop("header")))
  change(header, arrays)
  stream = io.BytesIO()
  np.savez(stream, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
  path.write_bytes(stream.getvalue())


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda h, a: h.update(format=3), "has format 3, this version of unsup-rule reads 1 and 2"),
    (lambda h, a: a.update({"linear/w": a["linear/w"] + 1}), "do not match their checksum"),
    (lambda h, a: a.pop("linear/b"), "array linear/b is missing"),
    (lambda h, a: a.update({"linear/c": a["linear/b"]}), "the header says nothing"),
    (
      lambda h, a: h["sizes"].update(output_size=9),
      r"is float32\[.*8.*\], expected float32\[.*9.*\]",
    ),
    (lambda h, a: h["dynamics"].update(learning_rate=-1), "learning_rate is -1; give a positive"),
    (lambda h, a: h.pop("use"), "is damaged"),
  ],
)
def test_a_file_that_is_not_right_is_one_line(path, change, message):
  rewritten(path, change)
  with pytest.raises(UnsupRuleError, match=message) as caught:
    Archive.read(path)
  assert str(path) in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", [0, 0.1, 0.5, 0.9])
def test_a_file_cut_short_or_scratched(path, where):
  content = path.read_bytes()
  at = int(where * len(content))
  path.write_bytes(content[:at])
  with pytest.raises(UnsupRuleError, match=r"damaged or holds no rule; copy it again"):
    Archive.read(path)
  path.write_bytes(content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 40]))
  with pytest.raises(UnsupRuleError):
    Archive.read(path) if where else Archive.read(path.with_name("missing.npz"))


def test_pickled_content_is_refused(path):
  np.savez(path, header=np.asarray([{"format": 1}], dtype=object), allow_pickle=True)
  with pytest.raises(UnsupRuleError, match="damaged or holds no rule"):
    Archive.read(path)


def test_values_that_are_not_finite(archive, tmp_path):
  theta = copy.deepcopy(archive.theta)
  theta["linear"]["w"][0, 0] = np.nan
  dataclasses.replace(archive, theta=theta).write(tmp_path / "nan.npz")
  with pytest.raises(UnsupRuleError, match="not finite"):
    Archive.read(tmp_path / "nan.npz")


def test_three_ways_and_itself(path, tmp_path):
  by_default = unsup_rule.pretrained()
  assert by_default.name == DEFAULT
  assert unsup_rule.pretrained(DEFAULT).sha256 == by_default.sha256
  assert unsup_rule.pretrained(by_default) is by_default
  assert unsup_rule.pretrained(path).schedule == InnerSchedule(3e-3, 100.0)
  from_run = unsup_rule.pretrained(str(rule_folder(tmp_path / "run")))
  assert from_run.sizes == SIZES
  assert from_run.schedule == InnerSchedule(3e-3)
  assert from_run.name == "run"


@pytest.mark.parametrize(
  ("rule", "message"),
  [
    (TYPO, f"no rule '{TYPO}'; did you mean '{QUICK}'[?] known are .*{DEFAULT}"),
    ("no/such/folder", "no rule 'no/such/folder'; known are "),
    ("no.npz", "cannot read no.npz: No such file"),
    (3, "rule is 3; give a name, a path"),
  ],
)
def test_unknown_rules(rule, message):
  with pytest.raises(UnsupRuleError, match=message):
    unsup_rule.pretrained(rule)


def test_is_copied_and_pickled(path):
  rule = unsup_rule.pretrained(path)
  for other in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
    assert other.sha256 == rule.sha256
    assert repr(other) == repr(rule) == f"<rule 'rule', embedding of 8, {rule.sha256[:12]}>"


@pytest.mark.slow
def test_loads_without_a_word_and_without_tensorflow():
  program = (
    "import sys, unsup_rule; unsup_rule.pretrained()\n"
    "assert not {'tensorflow', 'orbax', 'matplotlib'} & set(sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def step_of(optimizer):
  """phi after one application to noise."""
  mlp = unsup_rule.MLP(6, (5,), 8)
  params = mlp.init(jax.random.PRNGKey(1))
  activations = mlp.apply(params, jax.random.uniform(jax.random.PRNGKey(2), (4, 6)))
  step = jax.jit(lambda params, a: optimizer.update(optimizer.init(params), model_state=a).params)
  return step(params, activations)


def test_learned_optimizer_is_the_same_rule(path):
  rule = unsup_rule.pretrained(path)
  learned = rule.learned_optimizer()
  assert (learned.sizes, learned.schedule) == (rule.sizes, rule.schedule)
  after = step_of(rule.optimizer()), step_of(learned.opt_fn(rule.theta))
  jax.tree.map(np.testing.assert_array_equal, *after)


def test_export_of_a_run(tmp_path, capsys):
  folder = rule_folder(tmp_path / "run")
  (folder / "summary.json").write_text('{"outer_steps": 7, "heldout_accuracy_after": 0.81234}')
  out = tmp_path / "mine.npz"
  command = ["export", "--rule", str(folder), "--out", str(out), "--about", "Of a test."]
  costs = ("--core-hours", "1.5", "--gpu-minutes", "8.5")
  assert main([*command, "--steps", "70", *costs, "--commit", "abc"]) == 0
  assert "sha256" in capsys.readouterr().out
  rule = unsup_rule.pretrained(out)
  assert rule.use == Use(70, Use.batch_size)
  assert rule.schedule == InnerSchedule(3e-3)
  known = rule.provenance
  assert (known["data_sets"], known["seed"], known["commit"]) == (["a", "b"], 5, "abc")
  assert (known["outer_steps"], known["core_hours"], known["gpu_minutes"]) == (7, 1.5, 8.5)
  assert "trainer.seed = 5" in known["gin"]
  for fact in ("# mine", "Of a test.", "| seed | 5 |", "| the rule | 0.812 |", rule.sha256):
    assert fact in rule.card
  assert main(command) == 2
  assert "mine.npz exists already; remove it" in capsys.readouterr().err


def test_export_to_a_folder_keeps_the_rule(path, tmp_path, capsys):
  out = tmp_path / "folder"
  command = ["export", "--rule", str(path), "--out", str(out)]
  assert main(command) == 0
  before, after = unsup_rule.pretrained(path), unsup_rule.pretrained(out)
  assert (after.sha256, after.schedule) == (before.sha256, before.schedule)
  assert main(command) == 2
  assert "folder/params exists already" in capsys.readouterr().err


def test_export_with_other_dynamics(path, tmp_path, capsys):
  command = ["export", "--rule", str(path), "--out", str(tmp_path / "new.npz"), "--dynamics"]
  assert main([*command, "embedding_bias=6", "shuffle_inputs=True"]) == 0
  before, after = unsup_rule.pretrained(path), unsup_rule.pretrained(tmp_path / "new.npz")
  wanted = dataclasses.replace(before.schedule, embedding_bias=6.0, shuffle_inputs=True)
  assert (after.sha256, after.schedule) == (before.sha256, wanted)
  assert isinstance(after.schedule.embedding_bias, float)  # As in the folder of a run.
  assert "| biases of the embedding decay to | 6 |" in after.card
  for setting, message in (
    ("bias=1", "names 'bias'; use"),
    ("hidden_bias=x", "hidden_bias to 'x'"),
  ):
    assert main([*command, setting]) == 2
    assert message in capsys.readouterr().err


def test_export_of_several_is_their_mean(tmp_path, capsys):
  values = {"a": 1.0, "b": 4.0}
  drawn = drawn_theta(SIZES, 0)
  for name, value in values.items():
    theta = jax.tree.map(lambda leaf, value=value: np.asarray(leaf + value), drawn)
    Archive(
      theta, InnerSchedule(0.5), Use(), {"seed": value, "heldout_accuracy_after": value}
    ).write(tmp_path / f"{name}.npz")
  paths = [str(tmp_path / f"{name}.npz") for name in values]
  assert main(["export", "--rule", *paths, "--out", str(tmp_path / "mean.npz")]) == 0
  mean, parts = unsup_rule.pretrained(tmp_path / "mean.npz"), [*map(unsup_rule.pretrained, paths)]
  name = "bias_readout"
  np.testing.assert_allclose(mean.theta[name]["b"], [2.5], rtol=1e-6)
  assert mean.provenance["mean_of"] == [part.sha256 for part in parts]
  assert mean.provenance["seed"] == 4.0
  assert "heldout_accuracy_after" not in mean.provenance
  assert all(part.sha256[:12] in mean.card for part in parts)
  Archive(parts[0].theta, InnerSchedule(0.25), Use(), {}).write(tmp_path / "other.npz")
  command = ["export", "--rule", paths[0], str(tmp_path / "other.npz")]
  assert main([*command, "--out", str(tmp_path / "no.npz")]) == 2
  assert "'a' and 'other' is no rule" in capsys.readouterr().err
  assert not (tmp_path / "no.npz").exists()


@pytest.mark.skipif(not unsup_rule.compat.IS_HEAD, reason="the release has no opt_from_checkpoint")
def test_the_library_loads_the_folder(path, tmp_path):
  from learned_optimization.learned_optimizers import opt_from_checkpoint

  assert main(["export", "--rule", str(path), "--out", str(tmp_path / "folder")]) == 0
  optimizer = opt_from_checkpoint.opt_from_checkpoint(str(tmp_path / "folder" / "params"))
  expected = step_of(unsup_rule.pretrained(path).optimizer())
  jax.tree.map(np.testing.assert_array_equal, step_of(optimizer), expected)


def trained(folder, bindings):
  """What a run of these bindings leaves, after a theta that is drawn."""
  text = gin_files.parse(
    bindings=[f"UnsupervisedRule.{name} = {value}" for name, value in SMALL.items()]
    + ["run_train.lopt = @UnsupervisedRule()", "GradientLearner.theta_opt = @Adam()"]
    + ["trainer.seed = 5", *bindings]
  )
  found = settings.read(text)
  theta = found.run.lopt.init(jax.random.PRNGKey(0))
  run_folder.write_theta(folder, theta, 7, found)
  return folder


def test_what_a_run_leaves_is_a_rule_with_its_origin(tmp_path):
  sources = "task_distribution.sources = ['b', {'name': 'a'}]"
  bindings = [sources, "UnsupervisedRule.learning_rate = 0.5", "HeldOut.data = {'name': 'c'}"]
  rule = unsup_rule.pretrained(trained(tmp_path, bindings))
  assert (rule.sizes, rule.schedule) == (SIZES, InnerSchedule(0.5))
  known = rule.provenance
  assert (known["data_sets"], known["seed"], known["outer_steps"]) == (["a", "b"], 5, 7)
  assert "trainer.seed = 5" in known["gin"]


@pytest.mark.parametrize(
  ("measures", "use"),
  [
    ([], Use()),
    (["trainer.heldout_fn = @HeldOut()"], Use(70, 16)),
    (["trainer.validation_fn = @HeldOut()"], Use(70, 16)),
  ],
)
def test_a_run_recommends_what_it_measures_its_rule_with(tmp_path, measures, use):
  bindings = ["HeldOut.inner_steps = 70", "HeldOut.batch_size = 16"]
  assert unsup_rule.pretrained(trained(tmp_path, [*measures, *bindings])).use == use


def test_a_rule_trained_together_with_another_optimizer_is_no_rule_alone(tmp_path):
  folder = trained(tmp_path, ["UnsupervisedRule.inner_optimizer = @LearnableAdam()"])
  with pytest.raises(UnsupRuleError, match=r"has no rule.npz: .* a run with another optimizer"):
    provenance.load_rule(folder)


def test_a_folder_is_read_without_its_configuration(tmp_path):
  """Nothing in it is executed or imported: its gin file may say what it likes."""
  folder = rule_folder(tmp_path / "run")
  (folder / "config.gin").write_text("import nowhere\nUnsupervisedRule.learning_rate = x(\n")
  assert unsup_rule.pretrained(folder).schedule == InnerSchedule(3e-3)


def test_every_shipped_rule_has_a_card():
  assert DEFAULT in names()
  for name in names():
    rule = unsup_rule.pretrained(name)
    assert rule.sha256 in rule.card
    assert {"gin", "data_sets", "commit", "seed"} <= set(rule.provenance)
    assert {"core_hours", "gpu_minutes"} & set(rule.provenance)


@pytest.mark.parametrize(
  "summary", ['{"seconds": "x"}', '{"heldout_accuracy_after": [0.8]}', "[]", "{"]
)
def test_a_summary_that_is_not_one_is_one_line(summary, tmp_path, capsys):
  folder = rule_folder(tmp_path / "run")
  (folder / "summary.json").write_text(summary)
  assert main(["export", f"--rule={folder}", f"--out={tmp_path}/x.npz"]) == 2
  assert "summary.json is damaged" in capsys.readouterr().err
  assert not (tmp_path / "x.npz").exists()


def test_params_are_checked_by_the_summary(tmp_path):
  theta = {"linear": {"w": np.ones((2, 3), np.float32)}}
  checkpoint.save_params(tmp_path, theta, 1)
  content = bytearray((tmp_path / "params").read_bytes())
  load_theta(tmp_path, theta)  # No summary, as of a run that goes on: nothing to check it by.
  digest = hashlib.sha256(content).hexdigest()
  (tmp_path / "summary.json").write_text(json.dumps({"params_sha256": digest, "seconds": 1.0}))
  np.testing.assert_array_equal(load_theta(tmp_path, theta)["linear"]["w"], theta["linear"]["w"])
  at = bytes(content).index(np.float32(1).tobytes())
  content[at] ^= 1
  (tmp_path / "params").write_bytes(content)
  with pytest.raises(UnsupRuleError, match=r"params is not what summary\.json says of it"):
    load_theta(tmp_path / "params", theta)


def test_theta_of_a_folder_fits_load_theta(path, tmp_path):
  assert main(["export", "--rule", str(path), "--out", str(tmp_path / "f")]) == 0
  like = drawn_theta(SIZES, 1)
  assert digest(load_theta(tmp_path / "f", like)) == unsup_rule.pretrained(path).sha256
