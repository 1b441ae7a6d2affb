"""Tasks shared among devices: the same numbers, results free to go anywhere, and no meetings."""

import os
import subprocess
import sys

import jax
import pytest

from unsup_rule.rule import tuning
from unsup_rule.rule.tuning import prepared

SETTING = """
import jax
import jax.numpy as jnp
import numpy as np
from unsup_rule.meta import estimators
from unsup_rule.meta import shares
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner, truncation_schedule
from learned_optimization.tasks import quadratics

KEY = jax.random.PRNGKey(0)
SCHEDULE = truncation_schedule.ConstantTruncationSchedule(3)  # Tasks begin anew within an estimate.


def weights_of(lopt):
  outer = gradient_learner.OuterState(jnp.asarray(0))
  return gradient_learner.WorkerWeights(lopt.init(KEY), None, outer)


def estimates(build, family, lopt, **options):
  estimator = build(family, lopt, SCHEDULE, **options)
  weights = weights_of(lopt)
  state = estimator.init_worker_state(weights, KEY)
  ours = next(c for c in type(estimator).mro() if c.__module__ == estimators.__name__
              and c.__name__.startswith("_"))
  library = super(ours, estimator)
  return [e.compute_gradient_estimate(weights, KEY, state)[0] for e in (estimator, library)]


def compare(shared, whole):
  assert len(jax.tree.leaves(whole.grad)) and np.isfinite(whole.mean_loss)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(whole.grad))
  assert scale > 1e-6
  for got, want in zip(jax.tree.leaves(shared.grad), jax.tree.leaves(whole.grad), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * scale)
  for out in (shared, whole):
    assert all(len(x.sharding.device_set) == 1 for x in jax.tree.leaves(out))
  rest = [jax.tree.leaves(out.replace(grad=None)) for out in (shared, whole)]
  for got, want in zip(*rest, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
"""

QUADRATIC = (
  SETTING
  + """
assert jax.device_count() == 3
family, lopt = quadratics.FixedDimQuadraticFamily(dim=4), lopt_base.LearnableSGD()
assert shares.number_for(6, family) == 1
family.shareable = True
assert [shares.number_for(n, family) for n in (1, 2, 3, 4, 5, 6)] == [1, 2, 3, 2, 1, 3]
for options in (
  dict(build=estimators.truncated_grad, unroll_length=4, num_tasks=6),
  dict(build=estimators.truncated_grad, unroll_length=4, num_tasks=4, remat="sqrt"),
  dict(build=estimators.truncated_pes, trunc_length=4, num_tasks=6, std=0.1),
  dict(build=estimators.truncated_es, unroll_length=4, num_tasks=6, std=0.1),
):
  compare(*estimates(family=family, lopt=lopt, **options))
"""
)

RULE = (
  SETTING
  + """
from benchmarks.cases import Case

case = Case(side=3, hidden=(), channels=3, delta=2, batch=4)
rule = case.rule()
estimator = estimators.truncated_grad(case.family, rule, SCHEDULE, num_tasks=2, unroll_length=4)
weights = weights_of(rule)
state = estimator.init_worker_state(weights, KEY)
arguments = (weights, KEY, state)
shared, _ = estimator.compute_gradient_estimate(*arguments)
text = estimator._program.lower(*arguments).compile().as_text()
vars(estimator).pop("_program")
vars(estimator)["_n_shares"] = 1
compare(shared, estimator.compute_gradient_estimate(*arguments)[0])
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


@pytest.mark.parametrize(("program", "devices"), [(QUADRATIC, 3), (RULE, 2)], ids=["any", "rule"])
def test_several_devices_give_the_estimate_of_one(program, devices):
  run(program, devices, timeout=600)


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
    "from unsup_rule import cores; import jax; cores.available = lambda: 3;"
    "cores.as_devices(at_most=2); print(jax.device_count()); cores.as_devices(at_most=3);"
    "print(jax.device_count())"
  )
  for told, devices in (("", "2"), ("1", "1")):
    found = run(program, told or -1, timeout=60, capture_output=True, text=True)
    assert found.stdout.split() == [devices, devices], found.stdout
