"""The population's controller: durable, and sparing with what it keeps."""

import gin
import meta_problems  # noqa: F401  Known to gin.
import numpy as np
import pytest
from learned_optimization.population.mutators import winner_take_all_genetic

from unsup_rule.distributed import history, mutators, population, table
from unsup_rule.errors import UnsupRuleError

_MEMBERS = [["Adam.learning_rate = 0.1"], ["Adam.learning_rate = 0.01"]]


def _controller(folder):
  mutator = winner_take_all_genetic.WinnerTakeAllGenetic(
    lambda bindings: population.perturb(bindings, factors=(1.0,)), steps_per_exploit=10
  )
  return population.Controller(_MEMBERS, mutator, folder, seed=0)


def _evaluate(controller, folder, fitness, step=10):
  """Each member reaches `step` and is evaluated."""
  for member, value in enumerate(fitness):
    generation = controller.member(member).generation_id
    path = folder / f"member_{member}" / "snapshots" / generation / f"checkpoint_{step}"
    path.parent.mkdir(parents=True)
    path.touch()
    controller.submit(member, generation, step, str(path))
    assert controller.next_evaluation() == (member, generation, step, str(path))
    assert controller.is_waiting(member)
    controller.evaluated(member, generation, step, str(path), value)
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
  again.submit(1, other.parent.name, 20, str(other))
  again.submit(0, old, 20, str(late))
  again.evaluated(1, other.parent.name, 20, str(other), 0.5)
  assert late.exists()
  assert again.next_evaluation() == (0, old, 20, str(late))


def test_an_evaluation_whose_checkpoint_is_gone_is_given_up(tmp_path):
  controller = _controller(tmp_path)
  controller.submit(0, controller.member(0).generation_id, 10, str(tmp_path / "gone"))
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
    controller.evaluated(0, generation, 5, "path", 0.5)
  controller.evaluated(0, "unknown", 5, "path", 0.5)
  assert len(history.read(tmp_path)) == 1


def test_a_learner_that_was_started_anew_keeps_its_own_theta(tmp_path):
  controller = _controller(tmp_path)
  server = population.courier.Server("population")
  for handler in (controller.maybe_get_worker_data, controller.member):
    server.Bind(handler.__name__, handler)
  server.Start()
  try:
    generation = controller.member(0).generation_id
    fresh = population.Member("population", None).maybe_get_worker_data(0, "fake", 0, None, None)
    assert (fresh.generation_id, fresh.params) == (generation, None)
    _evaluate(controller, tmp_path, [0.4, 0.7])
    # Its generation is over: it goes on as the winner's copy.
    moved = population.Member("population", generation)
    active = moved.maybe_get_worker_data(0, "fake", 7, None, None)
    assert active.params is not None
    # It is the one it should be: it goes on from its own checkpoint.
    same = population.Member("population", active.generation_id)
    assert same.maybe_get_worker_data(0, "fake", 17, None, None).params is None
    assert same.maybe_get_worker_data(0, active.generation_id, 18, None, None) is None
  finally:
    server.Stop()


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
  for mutator in mutators.MUTATORS:
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
