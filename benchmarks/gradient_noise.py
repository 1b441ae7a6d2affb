"""How much the meta-gradients of single tasks vary, and what of it the tasks are to blame for.

  python -m benchmarks.gradient_noise --config_file=gin/rule.gin --rule=checkpoints/small_models \
    --gin_bindings=UnsupervisedRule.gradient_decay=1.0

Takes estimates of one task each by the gin file's estimator, of its first input shape and
architecture, at the theta of `--rule`: several of each task, with other batches. Prints one line of
JSON: variances are sums over theta's numbers, `squared_mean` is the squared length of the mean
gradient without the part that noise adds, `noise_scale` how many tasks a step needs for a mean
whose noise is as large as itself.
"""

import argparse
import json
import sys
import time

import gin
import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from learned_optimization.outer_trainers.gradient_learner import WorkerWeights

from unsup_rule.cli import gin_flags
from unsup_rule.compat import library
from unsup_rule.machine import compilation
from unsup_rule.meta import gin_files, settings
from unsup_rule.plugin.distribution import task_distribution
from unsup_rule.weights.pretrained import pretrained


def statistics(gradients_NxRxD: np.ndarray) -> dict[str, float]:
  """Of R >= 2 gradients of each of N >= 2 tasks, in float64."""
  n, repeats, _ = gradients_NxRxD.shape
  g = gradients_NxRxD.astype(np.float64)
  means_NxD = g.mean(axis=1)
  within = float(np.sum(np.square(g - means_NxD[:, None])) / (n * (repeats - 1)))
  of_means = float(np.sum(np.square(means_NxD - means_NxD.mean(axis=0))) / (n - 1))
  between = of_means - within / repeats
  squared = float(np.sum(np.square(means_NxD.mean(axis=0)))) - of_means / n
  return {
    "variance_within_tasks": within,
    "variance_between_tasks": between,
    "squared_mean": squared,
    "noise_scale": (within + between) / squared,
  }


def measured(rule: str, tasks: int, repeats: int, seed: int) -> np.ndarray:
  """Gradients [tasks, repeats, numbers of theta] under the present gin configuration."""
  found = settings.read(gin_files.config_text())
  learner, key = found.make_learner(), jax.random.PRNGKey(seed)
  weights = learner.get_state_for_worker(learner.init(key))
  theta = dict(pretrained(rule).theta)
  theta = jax.tree.map(lambda _, new: new, weights.theta, theta)
  weights = library.make(
    WorkerWeights,
    theta=theta,
    theta_model_state=weights.theta_model_state,
    outer_state=weights.outer_state,
  )
  make_estimator = gin.get_bindings("build_gradient_estimators")["gradient_estimator_fn"]
  estimator = make_estimator(task_distribution().family(0, 0), found.run.lopt)
  began, gradients = time.monotonic(), []
  for task in range(tasks):
    state = estimator.init_worker_state(weights, jax.random.fold_in(key, task))
    for repeat in range(repeats):
      own_key = jax.random.fold_in(jax.random.fold_in(key, tasks + task), repeat)
      out, _ = estimator.compute_gradient_estimate(weights, own_key, state)
      gradients.append(np.asarray(ravel_pytree(out.grad)[0]))
    seconds = time.monotonic() - began
    print(f"\rtask {task + 1}/{tasks}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)
  print(file=sys.stderr)
  return np.reshape(gradients, (tasks, repeats, -1))


def main() -> None:
  """Measures."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
  gin_flags.add_arguments(parser, "RidgeProbe.splits=8")
  parser.add_argument("--rule", required=True, help="a rule's name, file or folder")
  parser.add_argument("--tasks", type=int, default=64)
  parser.add_argument("--repeats", type=int, default=2, help="gradients of each task")
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  if min(arguments.tasks, arguments.repeats) < 2:
    parser.error("--tasks and --repeats are at least 2")
  compilation.cache_on_disk()
  single = ["truncated_grad.num_tasks=1", "truncated_grad.groups=1"]
  gin_files.parse(arguments.config_file, [*arguments.gin_bindings, *single], arguments.gin_import)
  gradients = measured(arguments.rule, arguments.tasks, arguments.repeats, arguments.seed)
  print(json.dumps({"tasks": arguments.tasks, **statistics(gradients)}))


if __name__ == "__main__":
  main()
