"""Tasks split among devices: the same numbers, and results free to go anywhere."""

import os
import subprocess
import sys

import jax
import pytest

from unsup_rule.rule import execution
from unsup_rule.rule.execution import prepared

# Three tasks on two devices, so that one device has a gap to fill.
PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from unsup_rule.rule.execution import gathered, prepared

assert jax.device_count() == 2
tree = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones(2)}
axes = {"a": 0, "b": None}

def loss(b, tasks):
  one = prepared(lambda t: jnp.sin(t["a"] * t["b"]), "step", tasks)
  return jnp.sum(jax.vmap(one, (axes,))({**tree, "b": b}) ** 2)

split, mapped = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(tree["b"], tasks)
                 for tasks in ("split", "map"))
assert len(split[0].sharding.device_set) == 2
np.testing.assert_allclose(split[0], mapped[0], rtol=1e-6)
np.testing.assert_allclose(split[1], mapped[1], rtol=1e-6)
assert len(gathered(split)[1].sharding.device_set) == 1
"""


def test_two_devices_give_the_gradient_of_one():
  environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
  subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=120)


@pytest.mark.parametrize("tasks", ["split", "auto"])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_split_is_vmap(n_tasks, tasks):
  def function(tree, y):
    return {"sum": tree["a"] + y, "product": tree["b"] * y}

  tree = {"a": jax.numpy.arange(2.0 * n_tasks).reshape(n_tasks, 2), "b": jax.numpy.ones(2)}
  axes = ({"a": 0, "b": None}, None)
  found = jax.vmap(prepared(function, "step", tasks), axes)(tree, 3.0)
  wanted = jax.vmap(function, axes)(tree, 3.0)
  for key in wanted:
    assert found[key].tolist() == wanted[key].tolist(), key


@pytest.mark.parametrize(("size", "at_once"), [(1, 6), (4, 3), (5, 2), (100, 1)])
def test_chunks_are_no_larger_than_allowed(monkeypatch, size, at_once):
  """Six tasks of one number each and of `size` more, where 12 numbers may be batched."""
  monkeypatch.setattr(execution, "AT_ONCE", 12)
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
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": told or "-1"}
    found = subprocess.run(
      [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == [devices, devices], found.stdout
