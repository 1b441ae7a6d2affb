"""Memory of a worker that meets every architecture of a gin file, one after the other.

  python -m benchmarks.memory --config_file=gin/paper.gin \
    --gin_bindings=truncated_grad.num_tasks=2 --gin_bindings=task_distribution.batch_size=4

Of each input shape and architecture of `task_distribution` it takes an estimate of each length of a
truncation, and prints one line of JSON: how many programs it has run, and this process's memory,
at its most and now. `trainer.max_programs` bounds those that are kept.
"""

import argparse
import json
import time

import jax
import numpy as np
import psutil

from unsup_rule.cli import gin_flags
from unsup_rule.machine import compilation, memory
from unsup_rule.meta import estimators, gin_files, settings
from unsup_rule.plugin.distribution import task_distribution


def _megabytes() -> tuple[float, float]:
  """Memory at most, and now."""
  return memory.peak_bytes() / 1e6, psutil.Process().memory_info().rss / 1e6


def main() -> None:
  """Measures."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
  gin_flags.add_arguments(parser, "truncated_grad.num_tasks=2")
  arguments = parser.parse_args()
  compilation.cache_on_disk()
  compilation.give_memory_back()
  text = gin_files.parse(arguments.config_file, arguments.gin_bindings, arguments.gin_import)
  found = settings.read(text, arguments.gin_import)
  estimators.keep(found.trainer.max_programs)
  learner, key = found.make_learner(), jax.random.PRNGKey(0)
  weights = learner.get_state_for_worker(learner.init(key))
  distribution = task_distribution()
  began, programs = time.monotonic(), 0
  for shape, sampler in enumerate(distribution.samplers):
    for architecture, (hidden, _) in enumerate(distribution.architectures):
      estimator = estimators.truncated_grad(
        distribution.family(shape, architecture), found.run.lopt
      )
      state = estimator.init_worker_state(weights, key)
      for one in getattr(estimator, "estimators", (estimator,)):
        out, _ = one.compute_gradient_estimate(weights, key, state, with_summary=False)
        assert np.isfinite(out.mean_loss), one
        programs += 1
      memory.give_back()
      most, now = _megabytes()
      line = {
        "inputs": sampler.sources[0].dataset.shape,
        "hidden": hidden,
        "programs": programs,
        "most_mb": round(most),
        "now_mb": round(now),
        "seconds": round(time.monotonic() - began),
      }
      print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
