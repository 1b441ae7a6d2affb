"""`unsup-rule describe`: says what a run of a gin file would sample, and draws examples of it."""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unsup_rule.cli import gin_flags
from unsup_rule.errors import UnsupRuleError

if TYPE_CHECKING:
  from learned_optimization.learned_optimizers.base import LearnedOptimizer

  from unsup_rule.meta.settings import Settings
  from unsup_rule.plugin.distribution import TaskDistribution
  from unsup_rule.plugin.task import MLPTaskFamily
  from unsup_rule.tasks.augment import Augmentation

# Applications of the rule that a truncation's step costs: back-propagation goes forward twice (it
# keeps only the states between steps) and backward at twice that, the others run a pair of tasks.
_PASSES = {"truncated_grad": 4, "truncated_pes": 2, "truncated_es": 2}
_TIMED = 3
_MB = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags; those of configuration are named as for `train`."""
  gin_flags.add_arguments(parser, "run_train.num_steps=100")
  parser.add_argument("--out", metavar="PNG", help="draw examples of every data set there")
  parser.add_argument(
    "--measure",
    action="store_true",
    help="take outer steps of one sampled estimator, and time them and their data (minutes)",
  )
  parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")


def run(arguments: argparse.Namespace) -> int:
  """Prints the description; returns the exit code.

  Raises:
    UnsupRuleError: bad configuration, or one without `task_distribution`.
  """
  if not arguments.config_file and not arguments.gin_bindings:
    raise UnsupRuleError("nothing to describe; give a gin file with --config_file")
  if arguments.out is not None and not arguments.out.endswith(".png"):
    raise UnsupRuleError(f"--out is {arguments.out}; give a file that ends in .png")
  from unsup_rule.meta import gin_files, gin_values, heldout, options, settings
  from unsup_rule.plugin.distribution import task_distribution

  options.check_seed("--seed", arguments.seed)
  text = gin_files.parse(arguments.config_file, arguments.gin_bindings, arguments.gin_import)
  found = settings.read(text, arguments.gin_import)
  heldout.check_configuration()
  if gin_values.bound("task_distribution.sources") is None:
    raise UnsupRuleError("task_distribution.sources is not set; nothing of ours would be sampled")
  distribution = task_distribution()
  estimator = _Estimator(found)
  sections = [
    ("Data sets", _data_sets(distribution)),
    ("Architectures", _architectures(distribution)),
    ("Estimators", estimator.lines()),
    ("Size and cost", _cost(distribution, found.run.lopt, estimator)),
  ]
  for title, lines in sections:
    _show(title, lines)
  if arguments.measure:
    _show("Measured", _measured(found, arguments.seed))
  if arguments.out:
    from unsup_rule.cli import sheet

    sheet.draw(distribution, arguments.out, arguments.seed)
    print(f"examples drawn in {arguments.out}")
  return 0


def _show(title: str, lines: Sequence[str]) -> None:
  print("\n".join([title, *(f"  {line}" for line in lines), ""]), flush=True)


class _Estimator:
  """What gin says about gradient estimators."""

  def __init__(self, found: "Settings"):
    from unsup_rule.meta import gin_values

    name = "build_gradient_estimators.gradient_estimator_fn"
    reference = gin_values.bound(name)
    if reference is None:
      raise UnsupRuleError(f"{name} is not set; include a file of gin/estimator")
    self.name: str = reference.configurable.name
    self._run, self._bound = found.run, gin_values.bound
    lengths = self._own("unroll_length", self._own("trunc_length", ()))
    self.truncations: tuple[int, ...] = (lengths,) if isinstance(lengths, int) else tuple(lengths)
    self.tasks: int = self._own("num_tasks", 1)

  def _own(self, parameter: str, default: Any) -> Any:
    return self._bound(f"{self.name}.{parameter}", default)

  @property
  def inner_steps(self) -> float:
    """Inner steps of all tasks in an outer step, on average."""
    return self._run.num_estimators * self.tasks * statistics.mean(self.truncations or (1,))

  def lines(self) -> list[str]:
    schedule = self._own("trunc_sched", None)
    schedule = getattr(getattr(schedule, "configurable", None), "name", str(schedule))
    low, high = (self._bound(f"{schedule}.{side}_length") for side in ("min", "max"))
    length = f"{low} to {high}" if low else self._bound(f"{schedule}.total_length", "?")
    frequency = self._run.stochastic_resample_frequency
    replaced = f"replaced every {frequency} outer steps on average" if frequency else "kept"
    return [
      f"{self._run.num_estimators} side by side, {self.name}, {self.tasks} tasks each; {replaced}",
      f"truncations of {_listed(self.truncations)} inner steps",
      f"episodes of {length} inner steps ({schedule})",
    ]


def _listed(values: Sequence[object]) -> str:
  texts = [str(value) for value in values]
  return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def _data_sets(distribution: "TaskDistribution") -> list[str]:
  from unsup_rule.cli.sheet import ways

  head = (
    "set",
    "split",
    "inputs",
    "examples",
    "classes",
    "problems",
    "share",
    "MB",
    "augmentation",
  )
  rows: list[tuple[str, ...]] = [head]
  for probability, sampler in zip(distribution.probabilities, distribution.samplers, strict=True):
    total = sum(source.weight for source in sampler.sources)
    for source in sampler.sources:
      dataset = source.dataset
      shape = "x".join(map(str, dataset.shape)) if dataset.is_image else str(dataset.n_inputs)
      rows.append(
        (
          dataset.name,
          dataset.split,
          shape,
          f"{len(dataset):,}",
          str(dataset.n_classes),
          ways(source.ways),
          f"{100 * probability * source.weight / total:.0f}%",
          f"{dataset.images.nbytes / _MB:.1f}",
          _augmentation(source.augmentation),
        )
      )
  return _table(rows)


def _augmentation(augmentation: "Augmentation") -> str:
  kinds = (
    (augmentation.rotation, f"rotation to ±{augmentation.rotation:g}°"),
    (augmentation.shift, f"shift to ±{augmentation.shift:g} pixels"),
    (augmentation.noise, f"noise to {augmentation.noise:g}"),
    (augmentation.thickness, f"strokes thicker by up to {augmentation.thickness:g} pixels"),
    (augmentation.shading, f"shading to {100 * augmentation.shading:g}%"),
  )
  parts = [
    text + (f" in {100 * probability:.0f}%" if probability < 1 else "")
    for (size, text), probability in zip(kinds, augmentation.probabilities, strict=True)
    if size
  ]
  return ", ".join(parts) or "none"


def _architectures(distribution: "TaskDistribution") -> list[str]:
  shapes = [sampler.n_inputs for sampler in distribution.samplers]
  rows = [("hidden layers", "nonlinearity", *(f"parameters of {n} inputs" for n in shapes))]
  for index, (hidden, nonlinearity) in enumerate(distribution.architectures):
    counts = [distribution.family(i, index).mlp.n_parameters for i in range(len(shapes))]
    layers = ", ".join(f"{len(list(same))} of {width}" for width, same in itertools.groupby(hidden))
    rows.append((layers or "none", nonlinearity, *(f"{count:,}" for count in counts)))
  outputs = distribution.family(0, 0).mlp.n_outputs
  return [*_table(rows), f"and {outputs} outputs; batches of {distribution.samplers[0].batch_size}"]


def _cost(
  distribution: "TaskDistribution", lopt: "LearnedOptimizer", estimator: _Estimator
) -> list[str]:
  import tqdm

  n_shapes, n_architectures = len(distribution.samplers), len(distribution.architectures)
  pairs = [(i, j) for i in range(n_shapes) for j in range(n_architectures)]
  operations = [
    (_step_operations(distribution.family(*pair), lopt), distribution.probabilities[pair[0]])
    for pair in tqdm.tqdm(pairs, desc="counting", leave=False, disable=not sys.stderr.isatty())
  ]
  mean = sum(count * weight for count, weight in operations) / n_architectures
  counts = [count for count, _ in operations]
  step = mean * _PASSES.get(estimator.name, 1) * estimator.inner_steps
  memory = sum(sampler.nbytes for sampler in distribution.samplers)
  lengths = max(1, len(estimator.truncations))
  return [
    f"compiled programs: at most {len(pairs) * lengths} ({n_shapes} input shapes x "
    f"{n_architectures} architectures x {lengths} truncations), each on first use",
    f"examples in memory: {memory / _MB:.1f} MB on the device, and as much on the host",
    f"an inner step of a task: {_giga(min(counts))} to {_giga(max(counts))} in matrix products, "
    f"{_giga(mean)} on average",
    f"an outer step: {estimator.inner_steps:g} inner steps, about {_giga(step)}",
  ]


def _giga(operations: float) -> str:
  return f"{operations / 1e9:.3g} GFLOP"


def _step_operations(family: "MLPTaskFamily", lopt: "LearnedOptimizer") -> int:
  """Operations of one inner step: its batch, the rule, and the meta-loss after it."""
  import jax

  from unsup_rule.machine.counting import needs

  def step(theta, key):
    task = family.task_fn(family.sample(key))
    params, model_state = task.init_with_state(key)
    optimizer = lopt.opt_fn(theta)
    state = optimizer.init(params, model_state, num_steps=1, key=key)
    activations = task.mlp.apply(params, task.sampler.unlabelled(task.task_params, key))
    zeros = jax.tree.map(jax.numpy.zeros_like, params)
    state = optimizer.update(state, zeros, loss=0.0, model_state=activations, key=key)
    return task.loss(optimizer.get_params(state), key)

  key = jax.random.PRNGKey(0)
  return needs(step, jax.eval_shape(lopt.init, key), key).operations


def _measured(found: "Settings", seed: int) -> list[str]:
  """Times gradient estimates of one sampled estimator, and the drawing of their data alone."""
  import jax
  from learned_optimization.outer_trainers import gradient_learner

  from unsup_rule.compat import library
  from unsup_rule.meta.groups import length_of

  key = jax.random.PRNGKey(seed)
  (sampled,) = found.sample_estimators(found.run.lopt, key, 1)
  estimator: Any = getattr(sampled, "estimators", (sampled,))[0]
  length = length_of(getattr(estimator, "stock", estimator))
  weights = library.make(
    gradient_learner.WorkerWeights,
    theta=found.run.lopt.init(key),
    theta_model_state=None,
    outer_state=None,
  )
  print("compiling", file=sys.stderr, flush=True)
  state = estimator.init_worker_state(weights, key)

  def estimate():
    output, _ = estimator.compute_gradient_estimate(weights, key, state, with_summary=False)
    jax.block_until_ready(output)

  family, n_tasks = estimator.task_family, estimator.num_tasks

  @jax.jit
  def draw_all(key):
    """All that the truncation draws: a problem and a batch a task and step, used or not."""

    def draw(key):
      task_params = family.sample(key)
      task = family.task_fn(task_params)
      drawn = (task_params, task.unlabelled(key), task.labelled(key))
      return jax.tree.map(jax.numpy.sum, drawn)

    def one_step(carry, key):
      return carry, jax.vmap(draw)(jax.random.split(key, n_tasks))

    return jax.lax.scan(one_step, None, jax.random.split(key, length))[1]

  estimate_s = _seconds(estimate)
  memory = estimator.memory(weights, key, state) if hasattr(estimator, "memory") else None
  draw_s = _seconds(lambda: jax.block_until_ready(draw_all(key)))
  return [
    f"{family.name}: {n_tasks} tasks x {length} inner steps in {estimate_s:.3f} s",
    *([f"memory of that on each device: {memory / _MB:.0f} MB"] if memory else []),
    f"drawing their problems and batches alone: {draw_s:.4f} s, {100 * draw_s / estimate_s:.1f}%",
  ]


def _seconds(function: Callable[[], object]) -> float:
  """The shortest of several calls, after one that compiles."""
  times = []
  for _ in range(1 + _TIMED):
    began = time.perf_counter()
    function()
    times.append(time.perf_counter() - began)
  return min(times[1:])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows of text with aligned columns, the first row being the head."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    for row in rows
  ]
