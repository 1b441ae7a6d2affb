"""What is sampled is what the gin file says: 10,000 problems and families, counted."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_helpers import compiled
from scipy import stats

from unsup_rule.data import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import outer_step
from unsup_rule.plugin import distribution as distribution_module
from unsup_rule.plugin.distribution import TaskDistribution
from unsup_rule.tasks.augment import Augmentation
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import DatasetSpec, Source, check_disjoint

_N = 10_000
_LEAST_P = 1e-3  # Of a chi-square test; the seed is fixed, so it holds or it does not.


def _dataset(name="dataset", n_classes=6, per_class=40, side=4, seed=0):
  """Every pixel of an example of class c lies in 20 c .. 20 c + 9."""
  rng = np.random.default_rng(seed)
  labels = np.repeat(np.arange(n_classes), per_class)
  images = 20 * labels[:, None, None, None] + rng.integers(0, 10, (len(labels), side, side, 1))
  names = [f"class {c}" for c in range(n_classes)]
  return Dataset.build(name, "train", images.astype(np.uint8), labels, names, 1 / 255)


def _sampled(sampler, n=_N, seed=0):
  keys = jax.random.split(jax.random.PRNGKey(seed), n)
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(sampler.sample))(keys))


def _assert_distributed(counts, expected):
  counts, expected = np.asarray(counts), np.asarray(expected, float)
  assert counts.sum() == pytest.approx(expected.sum())
  assert stats.chisquare(counts, expected).pvalue > _LEAST_P, (counts, expected)


@pytest.fixture(scope="module")
def two_sources():
  first = Source(_dataset("first", 6), (2, 4), 3.0, Augmentation(rotation=90.0, noise=0.2))
  second = Source(
    _dataset("second", 3, per_class=60),
    (3,),
    1.0,
    Augmentation(shift=2.0, shift_probability=0.25),
  )
  return TaskSampler([first, second], batch_size=8, examples_per_class=2)


@pytest.fixture(scope="module")
def drawn(two_sources):
  return _sampled(two_sources)


def test_sources_by_weight_ways_and_classes_evenly(drawn):
  _assert_distributed(np.bincount(drawn.source), [_N * 3 / 4, _N / 4])
  first = drawn.source == 0
  _assert_distributed([np.sum(drawn.ways[first] == w) for w in (2, 4)], [first.sum() / 2] * 2)
  assert (drawn.ways[~first] == 3).all()
  for is_source, low, n_classes in ((first, 0, 6), (~first, 6, 3)):
    for position in range(2):
      counts = np.bincount(drawn.classes[is_source, position] - low, minlength=n_classes)
      _assert_distributed(counts, [is_source.sum() / n_classes] * n_classes)
  used = [set(c[:w].tolist()) for c, w in zip(drawn.classes, drawn.ways, strict=True)]
  assert all(len(classes) == w for classes, w in zip(used, drawn.ways, strict=True))
  assert all(
    classes <= set(range(6) if s == 0 else range(6, 9))
    for classes, s in zip(used, drawn.source, strict=True)
  )


def test_augmentation_laws_by_their_probabilities(drawn):
  first = drawn.source == 0
  np.testing.assert_allclose(drawn.augmentation.rotation, np.where(first, np.pi / 2, 0), rtol=1e-6)
  np.testing.assert_allclose(drawn.augmentation.noise, np.where(first, 0.2, 0), rtol=1e-6)
  shifted = drawn.augmentation.shift[~first]
  assert set(np.unique(shifted)) == {0.0, 2.0}
  _assert_distributed(
    [np.sum(shifted == 2), np.sum(shifted == 0)], [len(shifted) / 4, len(shifted) * 3 / 4]
  )
  assert (drawn.augmentation.shift[first] == 0).all()


def test_permutations_are_even_and_of_all_inputs(drawn):
  permutations = drawn.permutation
  assert (np.sort(permutations, axis=1) == np.arange(16)).all()
  for position in (0, 7, 15):
    _assert_distributed(np.bincount(permutations[:, position]), [_N / 16] * 16)


def test_one_permutation_a_task_for_all_that_it_draws():
  """Each pixel of these images is its own place, so a batch shows the permutation."""
  places = np.broadcast_to(np.arange(16, dtype=np.uint8).reshape(4, 4, 1), (40, 4, 4, 1))
  dataset = Dataset.build("places", "train", places, np.repeat([0, 1], 20), ["a", "b"], 1.0)
  sampler = compiled(TaskSampler([Source(dataset)], batch_size=8, examples_per_class=2))
  task, other = (sampler.sample(jax.random.PRNGKey(seed)) for seed in (0, 1))
  rows = [sampler.unlabelled(task, jax.random.PRNGKey(seed)) for seed in range(3)]
  rows += [sampler.labelled(task, jax.random.PRNGKey(seed))[0] for seed in range(3)]
  seen = np.concatenate(rows)
  assert (seen == np.asarray(task.permutation)).all()
  assert (seen[0] != np.arange(16)).any()
  assert (np.asarray(other.permutation) != np.asarray(task.permutation)).any()
  plain = compiled(
    TaskSampler([Source(dataset)], batch_size=8, examples_per_class=2, permute=False)
  )
  x = plain.unlabelled(plain.sample(jax.random.PRNGKey(0)), jax.random.PRNGKey(1))
  assert (np.asarray(x) == np.arange(16)).all()


def test_a_share_of_the_problems_may_be_permuted():
  places = np.broadcast_to(np.arange(16, dtype=np.uint8).reshape(4, 4, 1), (40, 4, 4, 1))
  dataset = Dataset.build("places", "train", places, np.repeat([0, 1], 20), ["a", "b"], 1.0)
  sampler = TaskSampler([Source(dataset)], batch_size=8, examples_per_class=2, permute=0.7)
  keys = jax.random.split(jax.random.PRNGKey(0), 1000)
  permutations = np.asarray(jax.jit(jax.vmap(sampler.sample))(keys).permutation)
  permuted = (permutations != np.arange(16)).any(1)
  assert permuted.mean() == pytest.approx(0.7, abs=0.05)  # 3.4 standard errors
  every = TaskSampler([Source(dataset)], batch_size=8, examples_per_class=2)
  drawn = np.asarray(jax.jit(jax.vmap(every.sample))(keys).permutation)
  np.testing.assert_array_equal(permutations[permuted], drawn[permuted])
  with pytest.raises(UnsupRuleError, match=r"permute is 1\.5; give a share from 0 to 1"):
    TaskSampler([Source(dataset)], batch_size=8, examples_per_class=2, permute=1.5)


def test_examples_are_of_the_classes_of_the_problem(two_sources):
  sampler = compiled(two_sources)
  for seed in range(20):
    task_key, key = jax.random.split(jax.random.PRNGKey(seed))
    task = sampler.sample(task_key)
    task = task.replace(augmentation=jax.tree.map(jnp.zeros_like, task.augmentation))
    allowed = np.asarray(task.classes)[: int(task.ways)] - (6 if task.source else 0)
    x = np.asarray(sampler.unlabelled(task, key)) * 255
    assert set(np.unique(np.round(x) // 20)) <= set(allowed)
    x, train, test = sampler.labelled(task, key)
    labels = np.concatenate([train.labels, test.labels])
    np.testing.assert_array_equal(np.round(x[:, 0] * 255) // 20, allowed[labels])
    assert np.ptp(np.bincount(train.labels, minlength=int(task.ways))) <= 1
    rows = {tuple(row) for row in np.asarray(x).tolist()}
    assert len(rows) == len(x)  # Train and test share no example.


def _fake_sets(monkeypatch):
  def load(name, split, *, resolution=None, grey=False):
    del split, grey
    return _dataset(name, per_class=60, side=resolution or 6)

  monkeypatch.setattr("unsup_rule.tasks.sources.load", load)


def test_families_by_weight_resolution_and_architecture(monkeypatch):
  _fake_sets(monkeypatch)
  distribution = TaskDistribution(
    [
      {"name": "a", "ways": (2,), "weight": 2.0, "resolutions": (4, 5)},
      {"name": "b", "ways": (3,), "weight": 1.0, "resolutions": (5,)},
      {"name": "c", "ways": (2,), "weight": 3.0},
    ],
    depths=(1, 2),
    widths=(3, 4, 5),
    batch_size=8,
    examples_per_class=2,
  )
  families = [
    distribution.sample(key) for key in np.asarray(jax.random.split(jax.random.PRNGKey(0), _N))
  ]
  inputs = np.asarray([family.sampler.n_inputs for family in families])
  _assert_distributed([np.sum(inputs == n) for n in (16, 25, 36)], [_N / 6, _N * 2 / 6, _N * 3 / 6])
  hidden = [family.mlp.hidden for family in families]
  architectures = [(w,) * d for d in (1, 2) for w in (3, 4, 5)]
  _assert_distributed([hidden.count(one) for one in architectures], [_N / 6] * 6)
  assert len({id(family) for family in families}) == 3 * 6
  middle = next(family for family in families if family.sampler.n_inputs == 25)
  assert middle.source_names == ("a", "b")
  _assert_distributed(np.bincount(_sampled(middle.sampler).source), [_N / 2, _N / 2])


def test_hidden_layers_may_be_listed(monkeypatch):
  _fake_sets(monkeypatch)
  distribution = TaskDistribution(
    [{"name": "a", "ways": (2,)}], hidden=[[7], (3, 4)], examples_per_class=2
  )
  assert [hidden for hidden, _ in distribution.architectures] == [(7,), (3, 4)]
  assert [distribution.family(0, i).mlp.hidden for i in (0, 1)] == [(7,), (3, 4)]


def test_the_same_key_is_the_same_family_and_settings_the_same_distribution(monkeypatch):
  _fake_sets(monkeypatch)
  settings = {
    "sources": [{"name": "a", "ways": (2,)}],
    "widths": (3, 4, 5),
    "examples_per_class": 2,
  }
  one = distribution_module.task_distribution(**settings)
  assert distribution_module.task_distribution(**settings) is one
  assert distribution_module.task_distribution(**settings | {"widths": (3,)}) is not one
  gin.bind_parameter("load_data.resize", "area")
  assert distribution_module.task_distribution(**settings) is not one
  keys = jax.random.split(jax.random.PRNGKey(0), 20)
  assert [one.sample(k) for k in keys] == [one.sample(k) for k in keys]


def test_streams_of_workers_differ_and_are_reproducible():
  keys = {
    tuple(np.asarray(outer_step.worker_key(seed, worker, restart)).tolist())
    for seed in range(3)
    for worker in range(20)
    for restart in range(3)
  }
  assert len(keys) == 180
  # Recorded: a worker of an earlier run is reproduced by a later version of this program.
  assert np.asarray(outer_step.worker_key(0, 1, 2)).tolist() == [3152301319, 792466127]
  np.testing.assert_array_equal(outer_step.worker_key(5, 7), outer_step.worker_key(5, 7, 0))


def test_words_are_presence_unless_counts_are_asked_for(monkeypatch):
  counts = np.array([[0, 3, 255], [1, 0, 2]], np.uint8)
  texts = Dataset.build("texts", "train", counts, np.array([0, 1]), ["bad", "good"], 1.0)
  monkeypatch.setattr("unsup_rule.tasks.sources.load", lambda *args, **kwargs: texts)
  shown = DatasetSpec("texts").load().images[:, 0, 0]
  assert shown.tolist() == [[0, 1, 1], [1, 0, 1]]
  assert DatasetSpec("texts", words="counts").load().images[:, 0, 0].tolist() == counts.tolist()


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"name": "digits", "ways": ()}, "'digits': ways is empty; give at least one number"),
    ({"name": "digits", "ways": (2.5,)}, "ways is (2.5,); give a list of whole numbers"),
    ({"name": "digits", "ways": 2}, "ways is 2; give a list of whole numbers"),
    ({"name": "digits", "ways": (11,)}, "digits has 10 classes, so a 11-way problem is impossible"),
    ({"name": "digits", "ways": (1,)}, "so a 1-way problem is impossible; choose ways between 2"),
    ({"name": "digits", "classes": ()}, "'digits': classes is empty"),
    ({"name": "digits", "classes": (10,)}, "'digits' has no class 10"),
    ({"name": "digits", "resolutions": (9,)}, "resolution 9 for data set 'digits', whose images"),
    ({"name": "digits", "weight": 0}, "weight is 0; give a positive number"),
    ({"name": "digits", "weigth": 1}, "unknown setting 'weigth'; did you mean 'weight'?"),
    ({"name": "digits", "words": "tfidf"}, "words is 'tfidf'; choose one of presence, counts"),
    ({"name": "digits", "noise": -0.1}, "noise is -0.1; give a number from 0 up"),
    ({"name": "digits", "shift_probability": 2}, "shift_probability is 2; give a number from 0 to"),
    ({"name": "two_moons", "rotation": 10.0}, "two_moons has no images, so no rotation"),
    ({"ways": (2,)}, "give a name or a dictionary with a name"),
  ],
)
def test_bad_settings_are_one_line(settings, message, tmp_path, monkeypatch):
  monkeypatch.setenv("UNSUP_RULE_CACHE", str(tmp_path))
  with pytest.raises(UnsupRuleError) as error:
    TaskDistribution([settings]).samplers  # noqa: B018  A property that loads the data.
  assert message in str(error.value).splitlines()[0]  # Gin adds lines, which the program drops.


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"depths": (2, -1)}, r"depths is \(2, -1\); give numbers from 0 up"),
    ({"widths": ()}, "task_distribution.widths is empty; give at least one value"),
    ({"examples_per_class": 0}, "examples_per_class is 0; give at least 1"),
  ],
)
def test_impossible_tasks_are_one_line(setting, message):
  with pytest.raises(UnsupRuleError, match=message):
    TaskDistribution(["digits"], **setting)


def test_too_few_examples_of_a_class(tmp_path, monkeypatch):
  monkeypatch.setenv("UNSUP_RULE_CACHE", str(tmp_path))
  with pytest.raises(
    UnsupRuleError, match="has 87 examples of class '8', fewer than the 100 needed"
  ):
    TaskDistribution([{"name": "digits", "ways": (10, 2)}]).samplers  # noqa: B018


def test_an_output_that_there_is_not():
  with pytest.raises(
    UnsupRuleError, match=r"task_distribution.output is 'layer'; give 'embedding' or 'layers'"
  ):
    TaskDistribution(["digits"], output="layer")


@pytest.mark.parametrize("empty", ["sources", "depths", "widths", "nonlinearities"])
def test_empty_lists_name_what_is_empty(empty):
  settings = {"sources": ["digits"]} | {empty: ()}
  with pytest.raises(UnsupRuleError, match=f"task_distribution.{empty}"):
    TaskDistribution(**settings)


@pytest.mark.parametrize(
  ("trained", "evaluated"),
  [
    ("mnist", "mnist"),
    ({"name": "mnist", "classes": (0, 1)}, {"name": "mnist", "classes": (1, 2)}),
    ({"name": "mnist"}, {"name": "mnist", "split": "test"}),
    ("imagenet_resized/16x16", "imagenet_resized/8x8"),
    ("mnist:3.0.1", "mnist"),
    ("glyphs", "glyphs/letters"),
    ({"name": "glyphs", "classes": (0, 1)}, {"name": "glyphs/letters", "classes": (2, 3)}),
  ],
)
def test_sets_that_are_trained_and_evaluated_on_are_refused(trained, evaluated):
  with pytest.raises(UnsupRuleError, match="is both trained and evaluated on"):
    check_disjoint(["two_moons", trained], ["digits", evaluated])


@pytest.mark.parametrize(
  ("trained", "evaluated"),
  [
    ("mnist", "fashion_mnist"),
    ({"name": "mnist", "classes": (0, 1)}, {"name": "mnist", "classes": (2, 3)}),
    ("glyphs", {"name": "glyphs/letters", "split": "test"}),
  ],
)
def test_sets_that_are_apart_are_allowed(trained, evaluated):
  check_disjoint([trained], [evaluated])
