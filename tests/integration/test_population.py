"""The population's controller: durable, and sparing with what it keeps."""

import pickle
import threading

import gin
import jax
import meta_problems  # noqa: F401  Known to gin.
import numpy as np
import pytest
from distributed_helpers import Here, gradient
from learned_optimization.population import population as library_population
from learned_optimization.population.mutators import winner_take_all_genetic

from unsup_rule.distributed import history, identity, launcher, learner, population, table
from unsup_rule.distributed.controller import Controller, Evaluation, Membership
from unsup_rule.distributed.server import Contribution
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import checkpoint, lock, settings
from unsup_rule.plugin import distribution as _known_to_gin  # noqa: F401

_MEMBERS = [["Adam.learning_rate = 0.1"], ["Adam.learning_rate = 0.01"]]


def _controller(folder):
  mutator = winner_take_all_genetic.WinnerTakeAllGenetic(
    lambda bindings: population.perturb(bindings, factors=(1.0,)), steps_per_exploit=10
  )
  return Controller(_MEMBERS, mutator, folder, seed=0)


def _evaluate(controller, folder, fitness, step=10):
  """Each member reaches `step` and is evaluated."""
  for member, value in enumerate(fitness):
    generation = controller.member(member).generation_id
    path = folder / f"member_{member}" / "snapshots" / generation / f"checkpoint_{step}"
    path.parent.mkdir(parents=True)
    path.touch()
    evaluation = Evaluation(member, generation, step, str(path))
    controller.submit(evaluation)
    assert controller.next_evaluation() == evaluation
    assert controller.is_waiting(member)
    controller.evaluated(evaluation, value)
    assert not controller.is_waiting(member)
  assert controller.next_evaluation() is None


def test_the_fittest_is_copied_and_its_bindings_with_it(tmp_path):
  controller = _controller(tmp_path)
  winner = controller.member(1).generation_id
  _evaluate(controller, tmp_path, [0.4, 0.7])
  for member in (0, 1):
    active = controller.member(member)
    assert active.meta_params == ["Adam.learning_rate = 0.01"]
    assert active.step == 10
    assert active.params.endswith(f"member_1/snapshots/{winner}/checkpoint_10")
  rows = history.read(tmp_path)
  assert [(row["member"], row["step"], row["fitness"]) for row in rows] == [
    (0, 10, 0.4),
    (1, 10, 0.7),
  ]
  assert rows[1]["bindings"] == {"Adam.learning_rate": "0.01"}
  assert history.describe_best(tmp_path).endswith(
    "member_1: the best of the population, fitness 0.7000 at update 10, with "
    "Adam.learning_rate = 0.01"
  )
  _evaluate(controller, tmp_path, [0.5, 0.6], step=20)
  # The lineage: from the winner, where it was.
  assert {(row["parent"], row["parent_step"]) for row in history.read(tmp_path)[2:]} == {
    (winner, "10")
  }
  history.draw(tmp_path)
  assert (tmp_path / "members.png").stat().st_size > 5000
  shown = table.render_members(controller.report())
  assert "Adam.learning_rate = 0.01" in shown
  assert "0.6000" in shown


def test_a_controller_that_was_killed_goes_on(tmp_path):
  first = _controller(tmp_path)
  _evaluate(first, tmp_path, [0.7, 0.4])
  again = _controller(tmp_path)
  assert [again.member(i) for i in (0, 1)] == [first.member(i) for i in (0, 1)]
  assert again.member(0).step == 10


def test_an_evaluation_that_waits_keeps_its_checkpoint(tmp_path):
  """A member that was slow to hear of its new generation asks for one more of the old."""
  first = _controller(tmp_path)
  old = first.member(0).generation_id
  _evaluate(first, tmp_path, [0.4, 0.7])
  assert first.member(0).generation_id != old
  again = _controller(tmp_path)  # It does not remember the rounds before.
  late, other = (
    tmp_path / f"member_{member}" / "snapshots" / generation / "checkpoint_20"
    for member, generation in ((0, old), (1, again.member(1).generation_id))
  )
  for path in (late, other):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  waiting = Evaluation(0, old, 20, str(late))
  measured = Evaluation(1, other.parent.name, 20, str(other))
  again.submit(measured)
  again.submit(waiting)
  again.evaluated(measured, 0.5)
  assert late.exists()
  assert again.next_evaluation() == waiting


def test_an_evaluation_whose_checkpoint_is_gone_is_given_up(tmp_path):
  controller = _controller(tmp_path)
  generation = controller.member(0).generation_id
  controller.submit(Evaluation(0, generation, 10, str(tmp_path / "gone")))
  assert controller.next_evaluation() is None
  assert not controller.is_waiting(0)


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path):
  first = _controller(tmp_path)
  ids = {first.member(0).generation_id, first.member(1).generation_id}
  _evaluate(first, tmp_path, [0.7, 0.4])
  with open(tmp_path / "population.state", "r+b") as stream:
    stream.truncate(40)
  with pytest.warns(UserWarning, match=r"population\.state is damaged .*; trying the one before"):
    again = _controller(tmp_path)
  # One evaluation earlier, before the mutation.
  assert {again.member(0).generation_id, again.member(1).generation_id} == ids


def test_theta_that_nobody_can_need_is_removed(tmp_path):
  controller = _controller(tmp_path)
  first = [controller.member(member).generation_id for member in (0, 1)]
  for round_number in range(1, 6):
    _evaluate(controller, tmp_path, [0.5, 0.6], step=10 * round_number)
  kept = {path.name for path in tmp_path.glob("member_*/snapshots/*")}
  assert not kept & set(first)
  for member in (0, 1):
    assert controller.member(member).params.split("/")[-2] in kept


def test_a_repeated_evaluation_counts_once(tmp_path):
  controller = _controller(tmp_path)
  generation = controller.member(0).generation_id
  for _ in range(2):
    controller.evaluated(Evaluation(0, generation, 5, "path"), 0.5)
  controller.evaluated(Evaluation(0, "unknown", 5, "path"), 0.5)
  assert len(history.read(tmp_path)) == 1


def test_a_learner_that_was_started_anew_keeps_its_own_theta(tmp_path):
  controller = _controller(tmp_path)

  def membership(generation):
    return Membership(Here(controller), 0, generation, step=0, every=10)

  generation = controller.member(0).generation_id
  fresh = membership(None).news(0)
  assert (fresh.generation_id, fresh.params) == (generation, None)
  _evaluate(controller, tmp_path, [0.4, 0.7])
  # Its generation is over: it goes on as the winner's copy.
  active = membership(generation).news(7)
  assert active.params is not None
  # It is the one it should be: it goes on from its own checkpoint.
  same = membership(active.generation_id)
  assert same.news(17).params is None
  assert same.news(18) is None


def test_a_member_is_evaluated_at_each_multiple_and_once(tmp_path):
  controller = _controller(tmp_path)
  here = Here(controller)
  member = Membership(here, 0, None, step=20, every=10)
  assert [step for step in (20, 21, 30) if member.is_due(step)] == [30]
  member.submit("generation", 30, None)  # Its checkpoint could not be written.
  assert here.calls == []
  assert not member.is_due(30)
  # Another member's theta is younger.
  assert not member.is_due(10)
  assert member.is_due(20)


def test_new_bindings_make_new_settings_and_a_new_learner(tmp_path):
  """A member goes on with another one's theta and learning rate."""
  gin.parse_config("""
    run_train.lopt = @LearnableAdam()
    run_train.num_steps = 2
    GradientLearner.theta_opt = @SGD()
    SGD.learning_rate = 1.0
    build_gradient_estimators.sample_task_family_fn = @two_quadratics
    build_gradient_estimators.gradient_estimator_fn = @truncated_grad
  """)
  found = settings.read("")
  folder = tmp_path / "member_0"
  folder.mkdir()
  member = learner.Learner(folder, found, n_workers=1)
  controller = Here(_Population())
  member.join(controller, 0)
  served = []
  done = threading.Thread(target=lambda: member.train(served.append))
  done.start()
  while not served and done.is_alive():
    done.join(0.01)
  try:
    server = member.server
    restart = server.join(0, identity.of_this_process(""), {})
    data = pickle.loads(server.exchange(0, restart).weights)
    assert data.outer_cfg == ["SGD.learning_rate = 0.5"]
    before = jax.tree_util.tree_leaves(data.worker_weights.theta)
    one = Contribution(0, server.restart, 0, gradient(1.0, gen_id=data.gen_id), {})
    server.exchange(0, restart, one)
    while (reply := server.exchange(0, restart)).step < 1:
      pass
    after = jax.tree_util.tree_leaves(pickle.loads(reply.weights).worker_weights.theta)
    for old, new in zip(before, after, strict=True):
      np.testing.assert_allclose(new, old - 0.5, rtol=1e-6)
  finally:
    member.server.stop()
    done.join(60)
  assert checkpoint.load_state(folder)["generation"] == "first"


class _Population:
  """One member, which keeps its generation and its bindings."""

  def maybe_get_worker_data(self, member, generation, step, params, bindings):
    if generation is not None:
      return None
    return library_population.ActiveWorker(None, ["SGD.learning_rate = 0.5"], "first", 0)


def test_nobody_else_trains_in_a_members_folder(tmp_path):
  launch = launcher.Launch(None, tmp_path, 2)  # pyright: ignore[reportArgumentType]
  with (
    lock.exclusive(tmp_path / "member_1"),
    pytest.raises(UnsupRuleError, match=r"another process trains in .*member_1; wait for it"),
  ):
    launcher.train_population(None, launch, 2)  # pyright: ignore[reportArgumentType]
  with lock.exclusive(tmp_path / "member_0"):  # It was let go of.
    pass


def test_perturb_multiplies_numbers():
  np.random.seed(0)
  bindings = ["Adam.learning_rate = 1e-3", "A.schedule = @B()", "C.d=2"]
  assert population.perturb(bindings, factors=(3.0,)) == [
    "Adam.learning_rate = 0.003",
    "A.schedule = @B()",
    "C.d = 6",
  ]
  assert population.perturb(bindings, names=("C.d",), factors=(2.0,))[0] == bindings[0]
  drawn = {population.perturb(["C.d = 1"], factors=(0.5, 2.0))[0] for _ in range(20)}
  assert drawn == {"C.d = 0.5", "C.d = 2"}
  with pytest.raises(UnsupRuleError, match=r"perturb\.names has A\.schedule"):
    population.perturb(bindings, names=("A.schedule",))


def test_gin_knows_the_librarys_mutators_in_both_versions():
  for mutator in population.MUTATORS:
    gin.parse_config(f"population.mutator = @{mutator.__name__}")
    options = population.PopulationOptions()
    assert issubclass(options.mutator, mutator)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({}, "population.mutator is not bound"),
    ({"mutator": 1, "evaluate_every_updates": 0}, "evaluate_every_updates is 0"),
    ({"mutator": 1, "members": ["a = 1"]}, "give each member a list of bindings"),
    ({"mutator": 1, "members": [["a = 1 = 2"]]}, "give each member a list of bindings"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(UnsupRuleError, match=message):
    population.check(population.PopulationOptions(**options))


def test_fitness_on_training_data_is_refused():
  gin.parse_config("task_distribution.sources = [{'name': 'glyphs', 'split': 'valid'}]")
  with pytest.raises(UnsupRuleError, match="glyphs"):
    population.check(population.PopulationOptions(mutator=1))
