"""What an accelerator would run, read from programs lowered for it: none is at hand."""

import re

import jax
import numpy as np
import pytest

from benchmarks.cases import Case
from unsup_rule.compat import library
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import cores
from unsup_rule.meta import estimators, outer_step
from unsup_rule.rule import tuning

from learned_optimization.outer_trainers import gradient_learner  # isort: skip
from learned_optimization.outer_trainers import truncation_schedule  # isort: skip

_STEPS = 25


def _lowered(monkeypatch, case, n_tasks, precision=None):
  """The text of an estimate's program for CUDA."""
  monkeypatch.setattr(tuning, "on_cpu", lambda: False)
  estimator, weights = case.estimator(n_tasks, _STEPS, precision)
  state = jax.eval_shape(estimator.init_worker_state, weights, jax.random.PRNGKey(0))
  keys = jax.ShapeDtypeStruct((1, 2), np.uint32)
  traced = estimator.program.trace(weights, keys, state)
  return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.slow
def test_no_loop_over_tasks_and_float32_where_asked(monkeypatch):
  """At size `train`: loops go over inner steps and over the three equal hidden layers alone."""
  case = Case(side=14, hidden=(64,) * 4, channels=16, delta=8)
  text = _lowered(monkeypatch, case, 256, "highest")
  loops = len(re.findall(r"stablehlo\.while", text))
  ends = re.findall(r"cond \{\s*%\S+ = stablehlo\.constant dense<(\d+)>", text)
  assert loops == len(ends)
  assert set(ends) == {str(_STEPS), "3"}
  # The probe's systems, of all tasks at once.
  assert re.search(r"custom_call.*tensor<256x33x33xf32>", text)
  products = re.findall(r"stablehlo\.dot_general.*", text)
  assert len(products) > 100
  assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_a_precision_that_nothing_knows_is_refused():
  schedule = truncation_schedule.ConstantTruncationSchedule(5)
  case = Case(side=4, hidden=(4,), channels=4, delta=2)
  with pytest.raises(UnsupRuleError, match="precision is 'float16'; choose one of None, highest"):
    estimators.truncated_grad(
      case.family, case.rule(), schedule, num_tasks=2, unroll_length=5, precision="float16"
    )


def test_an_estimate_is_read_in_one_transfer(monkeypatch):
  """All that a step needs comes at once, and is numpy's from there on."""
  ones = jax.numpy.ones(3)

  class Estimator:
    truncated_step = None

    def compute_gradient_estimate(self, *_, **__):
      return library.make(
        gradient_learner.GradientEstimatorOut,
        mean_loss=jax.numpy.float32(2),
        grad={"a": ones, "b": 2 * ones},
        unroll_state={"phi": ones},
        unroll_info=None,
      ), {}

  transfers = []
  get = jax.device_get
  monkeypatch.setattr(jax, "device_get", lambda tree: transfers.append(tree) or get(tree))
  found = outer_step.estimate(Estimator(), None, jax.random.PRNGKey(0), None)
  assert len(transfers) == 1
  assert found.loss == 2
  assert {type(leaf) for leaf in found.gradient.values()} == {np.ndarray}
  assert isinstance(found.unroll_state["phi"], jax.Array)


def test_on_a_processor_nothing_is_moved():
  with cores.on_host():
    assert jax.config.jax_default_device is None
