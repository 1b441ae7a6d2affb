"""Tasks drawn from datasets, augmentation, and the settings of data sets."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_helpers import compiled

from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError
from unsup_rule.tasks.augment import KINDS, Augmentation, AugmentationParams, augment
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import DatasetSpec, Source, check_disjoint

COUNTS = (12, 15, 16, 13)


def dataset(counts=COUNTS, name="numbers", start=0, shape=(2, 2, 1), scale=1.0):
  """Examples whose first pixel is their number, the others 1000 n + number; floats, unscaled."""
  n = sum(counts)
  number = start + np.arange(n, dtype=np.float32)
  pixels = [number + 1000 * i for i in range(int(np.prod(shape)))]
  images = np.stack(pixels, axis=1).reshape(n, *shape)
  labels = np.repeat(np.arange(len(counts)), counts)
  return Dataset.build(
    name, "train", images, labels, [f"class {c}" for c in range(len(counts))], scale
  )


def source(*arguments, ways=(), weight=1.0, augmentation=None, **options):
  return Source(dataset(*arguments, **options), ways, weight, augmentation or Augmentation())


def numbers(task, x):
  """The examples' numbers, by undoing the permutation."""
  first = int(np.argmax(np.asarray(task.permutation) == 0))
  return np.asarray(x)[:, first].astype(int)


def class_of(number):
  return np.searchsorted(np.cumsum(COUNTS), number, side="right")


@pytest.fixture(scope="module")
def sampler():
  return TaskSampler([source(ways=(2, 3))], batch_size=40, examples_per_class=3)


@pytest.fixture(scope="module")
def draw(sampler):
  """key -> (problem, labelled draw, unlabelled draw), compiled once."""

  @jax.jit
  def draw(key):
    task = sampler.sample(key)
    return task, sampler.labelled(task, key), sampler.unlabelled(task, key)

  return draw


SEEDS = range(30)


def test_ways_and_classes(draw, strict):
  ways = collections.Counter()
  chosen = collections.Counter()
  for seed in SEEDS:
    task = draw(jax.random.PRNGKey(seed))[0]
    n = int(task.ways)
    classes = np.asarray(task.classes)[:n].tolist()
    assert len(set(classes)) == n
    assert set(classes) <= set(range(4))
    ways[n] += 1
    chosen.update(classes)
  assert set(ways) == {2, 3}
  assert min(ways.values()) >= 7  # of 30, half expected
  assert min(chosen.values()) >= 8  # of about 75 for four classes


def test_labelled_draw(draw, strict):
  for seed in SEEDS:
    task, (x, train, test), _ = draw(jax.random.PRNGKey(seed))
    n = int(task.ways)
    assert x.shape == (18, 4)
    drawn = numbers(task, x)
    assert len(set(drawn)) == 18, "train and test share an example"
    for targets, half in ((train, drawn[:9]), (test, drawn[9:])):
      labels = np.asarray(targets.labels)
      each = np.bincount(labels, minlength=n)
      assert len(each) == n
      assert max(each) - min(each) <= 1
      np.testing.assert_array_equal(np.asarray(task.classes)[labels], class_of(half))
      assert targets.regression.shape == (9, 0)


def test_labelled_draws_reach_every_example(draw, strict):
  seen = set()
  for seed in SEEDS:
    task, (x, _, _), _ = draw(jax.random.PRNGKey(seed))
    seen.update(numbers(task, x).tolist())
  assert len(seen) == sum(COUNTS)


def test_labels_are_shuffled(draw, strict):
  orders = {tuple(np.asarray(draw(jax.random.PRNGKey(s))[1][1].labels).tolist()) for s in SEEDS}
  assert len(orders) > 20


def test_unlabelled_draw(draw, strict):
  for seed in range(5):
    task, _, x = draw(jax.random.PRNGKey(seed))
    assert x.shape == (40, 4)
    classes = class_of(numbers(task, x))
    assert set(classes) == set(np.asarray(task.classes)[: int(task.ways)].tolist())
    # Classes are as likely as each other: 40 draws, 20 or 13 a class expected.
    assert np.bincount(classes).max() < 32


def test_one_permutation_a_problem(draw, strict):
  permutations = set()
  for seed in SEEDS:
    task, (x, _, _), unlabelled = draw(jax.random.PRNGKey(seed))
    permutation = np.asarray(task.permutation)
    for rows in (x, unlabelled):
      expected = numbers(task, rows)[:, None] + 1000 * permutation[None, :]
      np.testing.assert_array_equal(rows, expected)
    permutations.add(tuple(permutation.tolist()))
  assert len(permutations) > 10  # of 24


def test_same_key_same_batch(draw, strict):
  first, second = draw(jax.random.PRNGKey(5)), draw(jax.random.PRNGKey(5))
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_without_permutation(strict):
  sampler = compiled(TaskSampler([source()], batch_size=2, examples_per_class=2, permute=False))
  task = sampler.sample(jax.random.PRNGKey(0))
  np.testing.assert_array_equal(task.permutation, [0, 1, 2, 3])
  assert int(task.ways) == 4


def test_several_sources_by_weight(strict):
  sampler = TaskSampler(
    [
      source((8, 8), weight=1.0),
      source((8, 8, 8), weight=3.0, name="others", start=16, ways=(2,)),
    ],
    batch_size=4,
    examples_per_class=2,
  )

  @jax.jit
  @jax.vmap
  def draw(key):
    task = sampler.sample(key)
    return task, sampler.labelled(task, key)[0]

  drawn, x = draw(jax.random.split(jax.random.PRNGKey(0), 200))
  share = float(np.mean(np.asarray(drawn.source) == 1))
  assert abs(share - 0.75) < 0.1
  assert sampler.source_names == ("numbers", "others")
  for i in range(20):
    task = jax.tree.map(lambda leaf, i=i: leaf[i], drawn)
    others = numbers(task, x[i]) >= 16
    assert (others == (int(task.source) == 1)).all()


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: TaskSampler([]), "no data source given; name at least one"),
    (lambda: TaskSampler([source()], batch_size=1), "batch_size 1: batch normalisation needs"),
    (
      lambda: TaskSampler([source((5, 12))], 4, examples_per_class=3),
      "'train' has 5 examples of class 'class 0', fewer than the 6 needed: lower",
    ),
    (
      lambda: TaskSampler([source(), source(shape=(4, 1, 1), name="tall")], 4, 2),
      r"tall has inputs \(4, 1, 1\) but numbers has \(2, 2, 1\); .*set a common resolution",
    ),
    (
      lambda: TaskSampler([source(), source(name="loud", scale=0.5)], 4, 2),
      "loud has inputs .* one shape and scale",
    ),
    (lambda: source(ways=(5,)), "numbers has 4 classes, so a 5-way problem is impossible"),
    (lambda: source(ways=(1,)), "a 1-way problem is impossible; choose ways between 2 and 4"),
    (
      lambda: source(shape=(1, 1, 4), augmentation=Augmentation(shift=1.0)),
      "numbers has no images, so no shift; set it to 0",
    ),
    (
      lambda: DatasetSpec.from_settings({"name": "digits", "way": (2,)}),
      "data set 'digits' has an unknown setting 'way'; did you mean 'ways'?",
    ),
    (
      lambda: DatasetSpec.from_settings({"split": "train"}),
      "give a name or a dictionary with a name",
    ),
    (lambda: DatasetSpec.from_settings(3), "a data set is given as 3; give a name"),
    (lambda: DatasetSpec("digits", classes=3), "classes is 3; give a list of whole numbers"),
    (lambda: DatasetSpec("digits", ways=(2.5,)), "ways is .*; give a list of whole numbers"),
    (lambda: DatasetSpec("digits", weight=0.0), "weight is 0.0; give a positive number"),
    (
      lambda: check_disjoint(["glyphs", "digits"], [{"name": "digits", "split": "test"}]),
      "data set 'digits' is both trained and evaluated on",
    ),
  ],
)
def test_bad_settings(make, message):
  with pytest.raises(UnsupRuleError, match=message) as error:
    make()
  assert "\n" not in str(error.value)


def test_exactly_enough_examples_are_enough(strict):
  sampler = compiled(TaskSampler([source((6, 6))], batch_size=2, examples_per_class=3))
  task = sampler.sample(jax.random.PRNGKey(0))
  x, _, _ = sampler.labelled(task, jax.random.PRNGKey(1))
  assert sorted(numbers(task, x)) == list(range(12))


def test_data_sets_that_may_be_trained_and_evaluated_on():
  check_disjoint([], ["digits"])
  check_disjoint(["glyphs"], ["digits"])
  check_disjoint([{"name": "glyphs"}], [{"name": "glyphs", "split": "test"}])
  check_disjoint([{"name": "digits", "classes": (0, 1)}], [{"name": "digits", "classes": (2, 3)}])


def test_settings_become_a_source():
  settings = DatasetSpec.from_settings(
    {"name": "digits", "classes": [3, 7, 9], "ways": (2, 3), "rotation": 90, "noise": 0.5}
  )
  made = settings.source()
  assert made.dataset.n_classes == 3
  assert made.ways == (2, 3)
  assert made.augmentation.largest == (np.pi / 2, 0.0, 0.5, 0.0, 0.0)


IMAGES = np.random.default_rng(0).uniform(size=(1, 5, 5, 2)).astype(np.float32)


def params(**sizes):
  return AugmentationParams(**{kind: jnp.float32(sizes.get(kind, 0.0)) for kind in KINDS})


@pytest.mark.parametrize("kinds", [KINDS, ("noise",)])
def test_zero_law_leaves_images_as_they_are(kinds, strict):
  images, targets = augment(jnp.asarray(IMAGES), params(), kinds, jax.random.PRNGKey(0))
  np.testing.assert_allclose(images, IMAGES, atol=1e-6)
  np.testing.assert_allclose(targets, [[0, 1, 0, 0, 0]], atol=1e-7)


@pytest.fixture
def coefficients(monkeypatch):
  """Sets the drawn coefficients, as shares of the law's."""

  def set_them(*shares):
    monkeypatch.setattr(
      jax.random, "uniform", lambda key, shape, **_: jnp.asarray([shares], jnp.float32)
    )

  return set_them


@pytest.mark.parametrize(("share", "turns"), [(1, 1), (-1, -1), (0, 0)])
def test_rotation_by_a_quarter(share, turns, coefficients, strict):
  coefficients(share, 0, 0, 0)
  law_ = params(rotation=np.pi / 2)
  images, targets = augment(jnp.asarray(IMAGES), law_, ("rotation",), jax.random.PRNGKey(0))
  # A positive angle turns one way and the target says which: sin first, then cos.
  np.testing.assert_allclose(targets[0, :2], [share, 1 - abs(share)], atol=1e-6)
  np.testing.assert_allclose(images[0], np.rot90(IMAGES[0], turns), atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (0, -1), (-3, 2)])
def test_shift_by_whole_pixels(rows, columns, coefficients, strict):
  coefficients(0, rows / 4, columns / 4, 0)
  images, targets = augment(
    jnp.asarray(IMAGES), params(shift=4.0), ("shift",), jax.random.PRNGKey(0)
  )
  expected = np.zeros((15, 15, 2), np.float32)
  expected[5 + rows : 10 + rows, 5 + columns : 10 + columns] = IMAGES[0]
  np.testing.assert_allclose(images[0], expected[5:10, 5:10], atol=1e-5)
  np.testing.assert_allclose(targets[0, 2:4], [rows, columns], atol=1e-6)


def test_noise_level(coefficients, strict):
  coefficients(0, 0, 0, -0.5)
  flat = jnp.full((1, 100, 100, 1), 3.0)
  images, targets = augment(flat, params(noise=0.4), ("noise",), jax.random.PRNGKey(0))
  np.testing.assert_allclose(targets[0, 4], 0.2, rtol=1e-6)
  np.testing.assert_allclose(np.std(images), 0.2, rtol=0.03)
  np.testing.assert_allclose(np.mean(images), 3.0, atol=0.01)


def test_kinds_of_augmentation_are_drawn_for_each_task(strict):
  kinds = Augmentation(rotation=30.0, shift=1.0, rotation_probability=0.5, shift_probability=1.0)
  sampler = TaskSampler([source(augmentation=kinds)], batch_size=4, examples_per_class=2)
  augmentations = jax.jit(jax.vmap(sampler.sample))(
    jax.random.split(jax.random.PRNGKey(0), 200)
  ).augmentation
  assert set(np.unique(np.asarray(augmentations.rotation))) == {0.0, np.float32(np.deg2rad(30))}
  assert abs(float(jnp.mean(augmentations.rotation > 0)) - 0.5) < 0.12
  np.testing.assert_array_equal(augmentations.shift, 1)
  np.testing.assert_array_equal(augmentations.noise, 0)


def test_coefficients_are_targets_of_their_examples(strict):
  """The labelled draw hands on what each of its own examples was augmented with."""
  noisy = Augmentation(noise=100.0)
  sampler = compiled(TaskSampler([source(augmentation=noisy)], batch_size=4, examples_per_class=2))
  clean = compiled(TaskSampler([source()], batch_size=4, examples_per_class=2))
  key = jax.random.PRNGKey(3)
  task = sampler.sample(key)
  x, train, test = sampler.labelled(task, key)
  assert train.regression.shape == test.regression.shape == (8, 5)
  noise = np.asarray(x - clean.labelled(task, key)[0])
  levels = np.concatenate([train.regression[:, 4], test.regression[:, 4]])
  assert levels.std() > 10
  assert np.corrcoef(levels, np.abs(noise).mean(1))[0, 1] > 0.6


def test_strokes_grow_by_a_maximum_over_neighbours(coefficients, strict):
  dot = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3, 0].set(1.0)
  coefficients(0.75, 0, 0, 0)  # of 2 pixels: one whole, and half of the second
  images, _ = augment(dot, params(thickness=2.0), ("thickness",), jax.random.PRNGKey(0))
  np.testing.assert_allclose(images[0, 3, :, 0], [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-6)
  np.testing.assert_allclose(np.diag(images[0, :, :, 0]), images[0, 3, :, 0], atol=1e-6)


def test_shading_is_a_wave_across_the_image(coefficients, strict):
  flat = jnp.full((1, 4, 4, 1), 2.0)
  coefficients(1.0, 0.5, 0.0, 1.0)  # one wave down, none across; phase 0; full depth
  images, _ = augment(flat, params(shading=0.5), ("shading",), jax.random.PRNGKey(0))
  np.testing.assert_allclose(images[0, :, :, 0], [[1.0] * 4, [1.5] * 4, [2.0] * 4, [1.5] * 4])


def test_thickness_and_shading_are_no_targets(strict):
  kinds = Augmentation(thickness=1.0, shading=0.5)
  sampler = compiled(TaskSampler([source(augmentation=kinds)], batch_size=4, examples_per_class=2))
  task = sampler.sample(jax.random.PRNGKey(0))
  _, train, _ = sampler.labelled(task, jax.random.PRNGKey(1))
  assert train.regression.shape == (8, 0)
  assert float(task.augmentation.thickness) == 1.0
  assert float(task.augmentation.shading) == 0.5
