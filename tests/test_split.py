"""Tasks split among devices: the same numbers, one compilation, results free to go anywhere."""

import os
import subprocess
import sys

import jax
import pytest

from unsup_rule.rule.execution import prepared

# Three tasks on two devices, so that one device has a gap to fill.
PROGRAM = """
import jax, numpy as np
import jax.numpy as jnp
from unsup_rule.benchmark.cases import Case
from learned_optimization.outer_trainers import gradient_learner, truncation_schedule
from unsup_rule.compat import estimators

assert jax.device_count() == 2
case = Case(side=4, hidden=(6,), channels=3, delta=2, batch=8)
schedule = truncation_schedule.ConstantTruncationSchedule(100)
key = jax.random.PRNGKey(0)

def two_estimates(tasks):
  rule = case.rule(tasks=tasks)
  estimator = estimators.truncated_grad(case.family, rule, schedule, num_tasks=3, unroll_length=2)
  weights = gradient_learner.WorkerWeights(rule.init(key), None, gradient_learner.OuterState(1))
  state, found = estimator.init_worker_state(weights, key), []
  for _ in range(2):
    out, _ = estimator.compute_gradient_estimate(weights, key, state, with_summary=False)
    state = out.unroll_state
    for leaf in jax.tree.leaves(out):
      assert not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1
    found.append((out.mean_loss, jax.tree.leaves(out.grad)))
  return found

for split, mapped in zip(two_estimates("split"), two_estimates("map"), strict=True):
  np.testing.assert_allclose(split[0], mapped[0], rtol=1e-5)
  for a, b in zip(split[1], mapped[1], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
"""


@pytest.mark.slow
def test_two_devices_give_the_gradient_of_one():
  environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
  subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=600)


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_split_is_vmap(n_tasks):
  def function(tree, y):
    return {"sum": tree["a"] + y, "product": tree["b"] * y}

  tree = {"a": jax.numpy.arange(2.0 * n_tasks).reshape(n_tasks, 2), "b": jax.numpy.ones(2)}
  axes = ({"a": 0, "b": None}, None)
  found = jax.vmap(prepared(function, "step", "split"), axes)(tree, 3.0)
  wanted = jax.vmap(function, axes)(tree, 3.0)
  for key in wanted:
    assert found[key].tolist() == wanted[key].tolist(), key


def test_cores_as_devices_only_if_jax_was_not_told():
  program = (
    "from unsup_rule import cores; import jax; cores.available = lambda: 3;"
    "cores.as_devices(at_most=2); print(jax.device_count()); cores.as_devices(at_most=3);"
    "print(jax.device_count())"
  )
  for told, devices in (("", "2"), ("1", "1")):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": told or "-1"}
    found = subprocess.run(
      [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == [devices, devices], found.stdout
