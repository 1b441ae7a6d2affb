"""The sizes that are measured, and the programs of each."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from learned_optimization.outer_trainers import gradient_learner, truncation_schedule

from unsup_rule.compat import library
from unsup_rule.data.dataset import Dataset
from unsup_rule.meta import estimators
from unsup_rule.plugin.rule import UnsupervisedRule
from unsup_rule.plugin.task import MLPTaskFamily
from unsup_rule.plugin.theta import init_theta
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.theta import Sizes
from unsup_rule.rule.update import changes
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import Source


@dataclasses.dataclass(frozen=True)
class Case:
  """One size: a rule on one architecture.

  Attributes:
    side: of the square, one-coloured inputs, pixels.
    hidden: widths of the hidden layers.
    channels: of both networks of the rule.
    delta: channels of the delta.
    batch: examples of an application.
  """

  side: int = 14
  hidden: tuple[int, ...] = (128,) * 4
  channels: int = 64
  delta: int = 32
  batch: int = 32

  @property
  def mlp(self) -> MLP:
    """The base model."""
    return MLP(self.side**2, self.hidden)

  @property
  def sizes(self) -> Sizes:
    """The sizes of the rule."""
    return Sizes(top_delta_size=self.channels, compute_h_size=self.channels, delta_dim=self.delta)

  def arguments(self) -> tuple[Any, Any, jax.Array]:
    """theta, phi and a batch [B, P]."""
    theta = init_theta(self.sizes, jax.random.PRNGKey(0))
    x = jax.random.uniform(jax.random.PRNGKey(2), (self.batch, self.mlp.n_inputs))
    return theta, self.mlp.init(jax.random.PRNGKey(1)), x

  def apply(self, theta: Any, phi: Any, x: jax.Array) -> Any:
    """One application of the rule, base model included: the next phi."""
    change = changes(theta, self.sizes, phi, self.mlp.apply(phi, x))
    return jax.tree.map(lambda old, c: (1 - 1e-3) * old - 1e-3 * c, phi, change)

  def gradient(self, theta: Any, phi: Any, x: jax.Array) -> Any:
    """Of a function of the next phi, by theta and phi, as truncated backpropagation needs it."""

    def objective(theta, phi, x):
      return jnp.sum(jnp.square(self.mlp.features(self.apply(theta, phi, x), x)))

    return jax.grad(objective, argnums=(0, 1))(theta, phi, x)

  def rule(self) -> UnsupervisedRule:
    """The rule as a learned optimizer."""
    return UnsupervisedRule(
      top_delta_size=self.channels,
      compute_h_size=self.channels,
      delta_dim=self.delta,
      learning_rate=1e-3,
    )

  def estimator(
    self, n_tasks: int, length: int, precision: str | None = None
  ) -> tuple[gradient_learner.GradientEstimator, gradient_learner.WorkerWeights]:
    """The library's TruncatedGrad for so many inner steps, as `train` has it, and a theta."""
    rule, key = self.rule(), jax.random.PRNGKey(0)
    estimator = estimators.truncated_grad(
      self.family,
      rule,
      truncation_schedule.ConstantTruncationSchedule(100),
      num_tasks=n_tasks,
      unroll_length=length,
      precision=precision,
    )
    weights = library.make(
      gradient_learner.WorkerWeights,
      theta=rule.init(key),
      theta_model_state=None,
      outer_state=library.make(gradient_learner.OuterState, outer_iteration=1),
    )
    return estimator, weights

  def estimate(
    self, n_tasks: int, length: int, precision: str | None = None
  ) -> Callable[[], gradient_learner.GradientEstimatorOut]:
    """A truncation of so many inner steps by that estimator."""
    estimator, weights = self.estimator(n_tasks, length, precision)
    key = jax.random.PRNGKey(0)
    state = estimator.init_worker_state(weights, key)

    def run() -> gradient_learner.GradientEstimatorOut:
      return estimator.compute_gradient_estimate(weights, key, state, with_summary=False)[0]

    return run

  @functools.cached_property
  def family(self) -> MLPTaskFamily:
    """Ten-way problems on noise images, which cost what real ones cost."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 40)
    images = rng.integers(0, 256, (400, self.side, self.side, 1), dtype=np.uint8)
    dataset = Dataset.build("noise", "train", images, labels, [str(i) for i in range(10)], 1 / 255)
    return MLPTaskFamily(TaskSampler([Source(dataset)], batch_size=self.batch), self.hidden)


CASES = {
  "laptop": Case(side=8, hidden=(48,), channels=16, delta=8),
  "train": Case(hidden=(64,) * 4, channels=16, delta=8),
  "paper": Case(),
  "paper-100": Case(batch=100),
  "wide": Case(hidden=(512,) * 4),
  "deep": Case(hidden=(512,) * 5),
}
