"""Programs of estimators compiled side by side, before they are needed.

An estimate takes a minute or more to compile for an accelerator, on one core of the host; a run
that draws from several architectures would wait for each in turn.
"""

import concurrent.futures
from collections.abc import Iterable, Sequence

import jax
from learned_optimization.outer_trainers.gradient_learner import (
  GradientEstimator,
  WorkerWeights,
)

from unsup_rule.machine import cores
from unsup_rule.meta.estimators import is_shared


class CompiledAhead:
  """Compiles on threads of its own, an estimator each."""

  def __init__(self, weights: WorkerWeights):
    """Starts no thread yet; `weights` are of the shapes that estimates will get."""
    self._weights = weights
    self._pool = concurrent.futures.ThreadPoolExecutor(max(cores.available() // 2, 1))
    self._begun: dict[GradientEstimator, concurrent.futures.Future[None]] = {}

  def begin(self, estimators: Iterable[GradientEstimator]) -> None:
    """Compiles those that have not been begun, after all that have been.

    Estimators that are never met again are left out.
    """
    earlier = list(self._begun.values())
    for estimator in estimators:
      if is_shared(estimator) and estimator not in self._begun:
        self._begun[estimator] = self._pool.submit(self._compile, estimator, earlier)

  def wait(self, estimator: GradientEstimator) -> None:
    """Waits until the program of one is there; raises what its compilation raised."""
    if estimator in self._begun:
      self._begun[estimator].result()

  def _compile(
    self, estimator: GradientEstimator, earlier: Sequence[concurrent.futures.Future[None]]
  ) -> None:
    concurrent.futures.wait(earlier)
    key = jax.random.PRNGKey(0)
    state = estimator.init_worker_state(self._weights, key)
    out, _ = estimator.compute_gradient_estimate(self._weights, key, state, with_summary=False)
    jax.block_until_ready(out.grad)
