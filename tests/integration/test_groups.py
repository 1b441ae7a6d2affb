"""Groups of tasks side by side: the same numbers on any number of devices, and no meetings."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import groups
from unsup_rule.rule import tuning
from unsup_rule.rule.tuning import prepared

SETTING = """
import jax
import jax.numpy as jnp
import numpy as np
from unsup_rule.meta import estimators
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner, truncation_schedule
from learned_optimization.tasks import quadratics

KEY = jax.random.PRNGKey(0)
SCHEDULE = truncation_schedule.ConstantTruncationSchedule(3)  # Tasks begin anew within an estimate.


def weights_of(lopt):
  outer = gradient_learner.OuterState(jnp.asarray(0))
  return gradient_learner.WorkerWeights(lopt.init(KEY), None, outer)


def one_after_the_other(estimator, weights, states):
  "The stock estimates of the groups, each with its key."
  of_head = hasattr(estimator.stock, "get_datas")
  data = {"datas_list": estimator.stock.get_datas()} if of_head else {}
  return [
    estimator.stock.compute_gradient_estimate(
      weights, jax.random.fold_in(KEY, group), jax.tree.map(lambda x: x[group], states), **data
    )[0]
    for group in range(estimator.n_groups)
  ]


def compare(out, stock):
  mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *[one.grad for one in stock])
  assert len(jax.tree.leaves(mean)) and np.isfinite(out.mean_loss)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(mean))
  assert scale > 1e-6
  for got, want in zip(jax.tree.leaves(out.grad), jax.tree.leaves(mean), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * scale)
  np.testing.assert_allclose(out.mean_loss, np.mean([one.mean_loss for one in stock]), rtol=1e-5)
  states = jax.tree.map(lambda *x: np.stack(x), *[one.unroll_state for one in stock])
  infos = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *[one.unroll_info for one in stock])
  for found, wanted in ((out.unroll_state, states), (out.unroll_info, infos)):
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
"""

QUADRATIC = (
  SETTING
  + """
family, lopt = quadratics.FixedDimQuadraticFamily(dim=4), lopt_base.LearnableSGD()
family.shareable = True
weights = weights_of(lopt)
found = []
for build, options in (
  (estimators.truncated_grad, dict(unroll_length=4)),
  (estimators.truncated_grad, dict(unroll_length=4, remat="sqrt")),
  (estimators.truncated_pes, dict(trunc_length=4, std=0.1)),
  (estimators.truncated_es, dict(unroll_length=4, std=0.1)),
):
  estimator = build(family, lopt, SCHEDULE, num_tasks=8, groups=4, **options)
  assert estimator.n_devices == min(4, jax.device_count())
  state = estimator.init_worker_state(weights, KEY)
  out, _ = estimator.compute_gradient_estimate(weights, KEY, state)
  compare(out, one_after_the_other(estimator, weights, state))
  found += jax.tree.leaves(estimator.compute_gradient_estimate(weights, KEY, out.unroll_state)[0])
np.savez(OUT, *found)
"""
)

RULE = (
  SETTING
  + """
import dataclasses
from benchmarks.cases import Case
from rule_helpers import SMALLEST
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.plugin.task import MLPTaskFamily

family = MLPTaskFamily(Case(side=3, batch=4).family.sampler, (), SMALLEST.output_size)
rule = UnsupervisedRule(**dataclasses.asdict(SMALLEST), learning_rate=1e-3)
estimator = estimators.truncated_grad(family, rule, SCHEDULE, num_tasks=2, unroll_length=4)
weights = weights_of(rule)
state = estimator.init_worker_state(weights, KEY)
assert (estimator.n_groups, estimator.n_devices) == (2, 2)
out, _ = estimator.compute_gradient_estimate(weights, KEY, state)
compare(out, one_after_the_other(estimator, weights, state))
keys = jnp.stack([jax.random.fold_in(KEY, group) for group in range(2)])
text = estimator.program.lower(weights, keys, state).compile().as_text()
assert "num_partitions=2" in text
for meeting in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
  assert meeting not in text, meeting
"""
)


def run(program, devices, timeout, **options):
  """In a process of its own, since jax asks for the number of devices once; -1: not told."""
  environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", program]
  return subprocess.run(command, env=environment, check=True, timeout=timeout, **options)


@pytest.mark.slow
def test_the_numbers_are_the_same_on_any_number_of_devices(tmp_path):
  """And those of the library's own estimates of the groups, one after the other."""
  found = []
  for devices in (1, 2, 4):
    path = tmp_path / f"{devices}.npz"
    run(f"OUT = {str(path)!r}\n{QUADRATIC}", devices, timeout=600)
    found.append(np.load(path))
  for other in found[1:]:
    for name, array in found[0].items():
      np.testing.assert_array_equal(array, other[name])


@pytest.mark.slow
def test_groups_of_the_rule_never_meet():
  run(RULE, 2, timeout=600)


def test_number_of_groups():
  assert [groups.number(None, n) for n in (1, 2, 3, 8)] == [1, 2, 1, 2]
  assert groups.number(4, 8) == 4
  for bad in (0, 3):
    with pytest.raises(UnsupRuleError, match=f"groups is {bad}; give a divisor of num_tasks"):
      groups.number(bad, 8)


POOL = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from unsup_rule.probe import ridge_weights

mesh = Mesh(np.array(jax.devices()), "tasks")
tasks = PartitionSpec("tasks")
fit = jax.vmap(lambda a, y: ridge_weights(a, y, 0.1))
shared = jax.jit(jax.shard_map(fit, mesh=mesh, in_specs=(tasks, tasks), out_specs=tasks))
a = jax.random.normal(jax.random.PRNGKey(0), (64 * jax.device_count(), 100, 33))
y = a[..., :10]
for _ in range(30):
  weights = shared(a, y).block_until_ready()
np.testing.assert_allclose(weights, fit(a, y), rtol=1e-3, atol=1e-5)
"""


def test_no_core_waits_for_the_threads_that_cores_occupy():
  """jax solves a batch of 64 systems on its pool, which has a thread a device."""
  run(POOL, max(2, os.cpu_count() or 1), timeout=120)


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_auto_is_vmap(n_tasks):
  def function(tree, y):
    return {"sum": tree["a"] + y, "product": tree["b"] * y}

  tree = {"a": jax.numpy.arange(2.0 * n_tasks).reshape(n_tasks, 2), "b": jax.numpy.ones(2)}
  axes = ({"a": 0, "b": None}, None)
  found = jax.vmap(prepared(function, "step", "auto"), axes)(tree, 3.0)
  wanted = jax.vmap(function, axes)(tree, 3.0)
  for key in wanted:
    assert found[key].tolist() == wanted[key].tolist(), key


@pytest.mark.parametrize(("size", "at_once"), [(1, 6), (4, 3), (5, 2), (100, 1)])
def test_chunks_are_no_larger_than_allowed(monkeypatch, size, at_once):
  """Six tasks of one number each and of `size` more, where 12 numbers may be batched."""
  monkeypatch.setattr(tuning, "AT_ONCE", 12)
  tasks_at_once = []

  @jax.custom_batching.custom_vmap
  def seen(x):
    return x

  @seen.def_vmap
  def _(n, is_batched, x):
    tasks_at_once.append(n)
    return x, True

  x = jax.numpy.arange(6.0 * size).reshape(6, size)
  y = jax.vmap(prepared(lambda x: seen(x) * 2.0, "step", "auto"))(x)
  assert y.tolist() == (2 * x).tolist()
  assert set(tasks_at_once) == ({at_once} if at_once > 1 else set())


def test_cores_as_devices_only_if_jax_was_not_told():
  program = (
    "from unsup_rule.machine import cores; import jax; cores.available = lambda: 3;"
    "cores.as_devices(at_most=2); print(jax.device_count()); cores.as_devices(at_most=3);"
    "print(jax.device_count())"
  )
  for told, devices in (("", "2"), ("1", "1")):
    found = run(program, told or -1, timeout=60, capture_output=True, text=True)
    assert found.stdout.split() == [devices, devices], found.stdout
