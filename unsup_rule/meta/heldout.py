"""Few-shot accuracy of a theta on a data set that meta-training never sees."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import gin
import jax
import jax.numpy as jnp
import numpy as np
from learned_optimization.learned_optimizers.base import LearnedOptimizer, MetaParams

from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import gin_values
from unsup_rule.meta.options import TrainerOptions
from unsup_rule.rule import outputs
from unsup_rule.rule.mlp import MLP
from unsup_rule.tasks import fewshot
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import DatasetSpec, SpecSettings, check_disjoint


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """Trains base models without labels on one split and probes their features on another.

  Calling it with (learned optimizer, theta) returns "accuracy", the mean over seeds after
  `inner_steps`; "standard_error" of that mean over seeds; and "untrained_accuracy" of the same base
  models at step 0.

  Attributes:
    data: the data set, see `DatasetSpec`; the rule is applied to its "train" split, without labels.
    test_split: split that the probe is fitted and tested on.
    hidden: widths of the base model's hidden layers.
    n_outputs: width of its embedding.
    inner_steps: applications of the rule.
    batch_size: examples of one application.
    seeds: base models, each with its own permutation of the inputs.
    draws: labelled draws averaged for each base model.
    examples_per_class: labelled examples of a class; as many again are predicted.
    seed: of everything.
    output: what the probe reads of it, "embedding" or "layers".
  """

  data: SpecSettings = "digits"
  test_split: str = "test"
  hidden: Sequence[int] = (48,)
  n_outputs: int = 32
  inner_steps: int = 50
  batch_size: int = 32
  seeds: int = 16
  draws: int = 10
  examples_per_class: int = 10
  seed: int = 0
  output: str = "embedding"

  def __post_init__(self):
    outputs.check(self.output, "HeldOut.output")
    if self.seeds < 2:
      raise UnsupRuleError(f"HeldOut.seeds is {self.seeds}; a standard error needs at least 2")
    for name, least in (("inner_steps", 0), ("draws", 1), ("examples_per_class", 1)):
      if getattr(self, name) < least:
        raise UnsupRuleError(f"HeldOut.{name} is {getattr(self, name)}; give at least {least}")

  def __call__(self, learned_opt: LearnedOptimizer, theta: MetaParams) -> dict[str, float]:
    """Measures `theta`; the same seeds for every theta, so that differences are paired."""
    keys = jax.random.split(jax.random.PRNGKey(self.seed), self.seeds)
    measure = _compiled(self, learned_opt)
    before, after = np.stack([np.asarray(measure(theta, key)) for key in keys]).T
    mean, error = fewshot.mean_and_error(after)
    return {
      "accuracy": mean,
      "standard_error": error,
      "untrained_accuracy": fewshot.mean_and_error(before)[0],
    }

  def check(self, learned_opt: LearnedOptimizer, theta: MetaParams) -> None:
    """Loads the data and traces a measurement, which finds what is wrong with it in little time.

    Raises:
      UnsupRuleError: as a measurement would.
    """
    key = jax.random.PRNGKey(self.seed)
    jax.eval_shape(functools.partial(self._measure, learned_opt), theta, key)

  def _measure(self, learned_opt: LearnedOptimizer, theta: MetaParams, key: jax.Array) -> jax.Array:
    """Mean accuracy of one base model at step 0 and after training, [2]."""
    train, test = self._sampler("train"), self._sampler(self.test_split)
    mlp = MLP(train.n_inputs, tuple(self.hidden), self.n_outputs)
    task_key, init_key, step_key, draw_key = jax.random.split(key, 4)
    task_params = train.sample(task_key)
    optimizer = learned_opt.opt_fn(theta)

    def accuracy(params):
      def draw(key):
        x, fit, query = test.labelled(task_params, key)
        features = outputs.read(mlp, params, x, self.output)
        predicted_K = fewshot.ridge(features, fit.labels, test.max_ways)
        return jnp.mean((predicted_K == query.labels).astype(jnp.float32))

      return jnp.mean(jax.lax.map(draw, jax.random.split(draw_key, self.draws)))

    def step(state, key):
      params = optimizer.get_params(state)
      activations = mlp.apply(params, train.unlabelled(task_params, key))
      return optimizer.update(state, params, loss=0.0, model_state=activations), None

    params = mlp.init(init_key)
    state, _ = jax.lax.scan(
      step, optimizer.init(params), jax.random.split(step_key, self.inner_steps)
    )
    return jnp.stack([accuracy(params), accuracy(optimizer.get_params(state))])

  def _sampler(self, split: str) -> TaskSampler:
    data_set = dataclasses.replace(DatasetSpec.from_settings(self.data), split=split)
    source = data_set.source(next(iter(data_set.resolutions), None))
    return TaskSampler(
      [source], batch_size=self.batch_size, examples_per_class=self.examples_per_class
    )


@functools.lru_cache(maxsize=4)  # A population's thetas are measured again and again.
def _compiled(
  held_out: HeldOut, learned_opt: LearnedOptimizer
) -> Callable[[MetaParams, jax.Array], jax.Array]:
  return jax.jit(functools.partial(held_out._measure, learned_opt))


def check(options: TrainerOptions, learned_opt: LearnedOptimizer, theta: MetaParams) -> None:
  """Refuses, before training, what would fail when theta is measured after it.

  Raises:
    UnsupRuleError: as the measurement would.
  """
  for measure in (options.heldout_fn, options.validation_fn):
    if isinstance(measure, HeldOut):
      measure.check(learned_opt, theta)


def check_configuration() -> None:
  """Refuses a gin configuration whose run would measure itself on a data set that it trains on.

  Raises:
    UnsupRuleError: names the set.
  """
  measure = getattr(gin_values.bound("trainer.heldout_fn"), "configurable", None)
  if measure is not None and measure.name == "HeldOut":
    evaluated = gin_values.bound("HeldOut.data", HeldOut.data)
    check_disjoint(gin_values.bound("task_distribution.sources", ()), [evaluated])
