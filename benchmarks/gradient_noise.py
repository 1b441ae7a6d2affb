"""How much the meta-gradients of single tasks vary, and what of it the tasks are to blame for.

  python -m benchmarks.gradient_noise --config_file=gin/rule.gin \
    --gin_bindings='GradientLearner.init_theta_from_path = "checkpoints/from_scratch/params"' \
    --gin_bindings=UnsupervisedRule.gradient_decay=1.0

Takes estimates of one task each by `truncated_grad`, of the gin file's first input shape and
architecture, at the theta that a run would start from: several of each task, with other batches.
Prints one line of JSON: variances are sums over theta's numbers, `squared_mean` is the squared
length of the mean gradient without the part that noise adds, with its standard error (jackknife
over tasks); `noise_scale` is how many tasks a step needs for a mean whose noise is as large as
itself, null where the squared mean is not above two of its standard errors: take more tasks.
"""

import argparse
import json

import jax
import numpy as np
import tqdm
from jax.flatten_util import ravel_pytree

from unsup_rule.cli import gin_flags
from unsup_rule.machine import compilation
from unsup_rule.meta import estimators, gin_files, outer_step, settings
from unsup_rule.plugin.distribution import task_distribution


def _squared_mean(means_NxD: np.ndarray) -> tuple[float, float]:
  """Squared length of the means' expectation, without bias, and its standard error.

  The U-statistic (|sum g|^2 - sum |g|^2) / (N (N - 1)), and its jackknife over tasks.
  """
  n = len(means_NxD)
  total_D, own_N = means_NxD.sum(axis=0), np.sum(np.square(means_NxD), axis=1)
  pairs = float(total_D @ total_D - own_N.sum())
  without_N = (pairs - 2 * (means_NxD @ total_D - own_N)) / ((n - 1) * (n - 2))
  error = np.sqrt((n - 1) / n * np.sum(np.square(without_N - without_N.mean())))
  return pairs / (n * (n - 1)), float(error)


def statistics(gradients_NxRxD: np.ndarray) -> dict[str, float | None]:
  """Of R >= 2 gradients of each of N >= 3 tasks, in float64."""
  n, repeats, _ = gradients_NxRxD.shape
  g = gradients_NxRxD.astype(np.float64)
  means_NxD = g.mean(axis=1)
  within = float(np.sum(np.square(g - means_NxD[:, None])) / (n * (repeats - 1)))
  of_means = float(np.sum(np.square(means_NxD - means_NxD.mean(axis=0))) / (n - 1))
  between = of_means - within / repeats
  squared, error = _squared_mean(means_NxD)
  return {
    "variance_within_tasks": within,
    "variance_between_tasks": between,
    "squared_mean": squared,
    "squared_mean_error": error,
    "noise_scale": (within + between) / squared if squared > 2 * error else None,
  }


def measured(found: settings.Settings, tasks: int, repeats: int, seed: int) -> np.ndarray:
  """Gradients [tasks, repeats, numbers of theta]."""
  learner, key = found.make_learner(), jax.random.PRNGKey(seed)
  lopt = found.run.lopt
  weights = learner.get_state_for_worker(outer_step.initial_learner_state(lopt, learner, seed))
  estimator = estimators.truncated_grad(task_distribution().family(0, 0), lopt)
  gradients = []
  for task in tqdm.tqdm(range(tasks), bar_format="task {n_fmt}/{total_fmt} {bar} {elapsed}"):
    state = estimator.init_worker_state(weights, jax.random.fold_in(key, task))
    for repeat in range(repeats):
      own_key = jax.random.fold_in(jax.random.fold_in(key, tasks + task), repeat)
      out, _ = estimator.compute_gradient_estimate(weights, own_key, state)
      gradients.append(np.asarray(ravel_pytree(out.grad)[0]))
  return np.reshape(gradients, (tasks, repeats, -1))


def main() -> None:
  """Measures."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
  gin_flags.add_arguments(parser, "RidgeProbe.splits=8")
  parser.add_argument("--tasks", type=int, default=64)
  parser.add_argument("--repeats", type=int, default=2, help="gradients of each task")
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  if arguments.tasks < 3 or arguments.repeats < 2:
    parser.error("--tasks is at least 3, --repeats at least 2")
  compilation.cache_on_disk()
  single = ["truncated_grad.num_tasks=1", "truncated_grad.groups=1"]
  bindings = [*arguments.gin_bindings, *single]
  text = gin_files.parse(arguments.config_file, bindings, arguments.gin_import)
  found = settings.read(text, arguments.gin_import)
  gradients = measured(found, arguments.tasks, arguments.repeats, arguments.seed)
  print(json.dumps({"tasks": arguments.tasks, **statistics(gradients)}))


if __name__ == "__main__":
  main()
