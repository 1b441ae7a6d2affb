"""Compilations: none for new problems and known combinations, not more for deeper models."""

import jax
import numpy as np
import pytest

from unsup_rule.meta import gin_files, settings
from unsup_rule.meta.training_run import MetaTrainingRun
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.theta import abstract, nested

_SMALL_RULE = {"top_delta_size": 4, "compute_h_size": 4, "delta_dim": 4, "num_grad_channels": 2}
_BINDINGS = """
run_train.lopt = @UnsupervisedRule()
task_distribution.sources = [{"name": "digits", "ways": (2, 3)}, {"name": "digits", "ways": (4,)}]
task_distribution.depths = (1,)
task_distribution.widths = (4, 5)
task_distribution.batch_size = 8
task_distribution.examples_per_class = 2
build_gradient_estimators.sample_task_family_fn = @sample_task_family
build_gradient_estimators.gradient_estimator_fn = @truncated_es
truncated_es.trunc_sched = @EpisodeLengths()
truncated_es.unroll_length = 1
truncated_es.num_tasks = 2
EpisodeLengths.min_length = 2
EpisodeLengths.max_length = 3
GradientLearner.theta_opt = @SGD()
run_train.num_estimators = 1
run_train.stochastic_resample_frequency = 1
UnsupervisedRule.top_delta_size = 4
UnsupervisedRule.compute_h_size = 4
UnsupervisedRule.delta_dim = 4
UnsupervisedRule.num_grad_channels = 2
"""


@pytest.mark.slow
def test_new_problems_and_known_combinations_compile_nothing(compilations):
  gin_files.parse(bindings=_BINDINGS.strip().split("\n"))
  run = MetaTrainingRun(settings.read(""))
  run.start()
  seen, problems = set(), set()
  while len(seen) < 2:  # Both widths.
    seen.add(run.estimators[0].estimator)
    report = run.advance()
    assert run.step < 50
  run.advance()
  compilations.clear()
  for _ in range(8):  # Every episode of at most 3 steps ends in these, so problems are new too.
    problems.update(np.asarray(_task_params(run).permutation)[..., :8].ravel().tolist())
    seen.add(run.estimators[0].estimator)
    report = run.advance()
  assert not compilations
  assert len(seen) == 2
  assert len(problems) > 8
  assert np.isfinite(report.loss)
  assert set(report.source_losses) == {"digits"}


def _task_params(run):
  return run.estimators[0].unroll_state.task_param


@pytest.mark.parametrize("gradient", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_program_does_not_grow_with_depth(gradient):
  rule = UnsupervisedRule(**_SMALL_RULE, output_size=6, top_delta_layers=0, compute_h_layers=0)
  theta = nested(abstract(rule.sizes))

  def size(depth):
    mlp = MLP(9, (4,) * depth, 6)  # Parameters of all depths are drawn in one length.

    def update(theta, key):
      params = mlp.init(key)
      optimizer = rule.opt_fn(theta)
      activations = mlp.apply(params, jax.random.normal(key, (4, 9)))
      state = optimizer.update(optimizer.init(params), params, loss=0.0, model_state=activations)
      return sum(leaf.sum() for leaf in jax.tree.leaves(optimizer.get_params(state)))

    function = jax.grad(update) if gradient else update
    return len(jax.jit(function).lower(theta, jax.random.PRNGKey(0)).as_text().splitlines())

  two, three, five, seven = map(size, (2, 3, 5, 7))
  assert seven < 1.02 * five < 1.05 * three
  assert five < 1.3 * two  # A run of one layer is not a loop, so these differ a little.
