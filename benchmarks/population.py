"""A population of three over the outer learning rate, beside a sweep of it, on small quadratics.

  python -m benchmarks.population

Prints one line of JSON: fitness at the end of each run of the sweep, and what the population's
members ended with.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
from learned_optimization.tasks import quadratics

from unsup_rule.distributed import history

_FAMILY = quadratics.FixedDimQuadraticFamily(dim=5)
_N_TASKS = 64
_INNER_STEPS = 20
_SWEEP = (1e-4, 1e-3, 1e-2, 1e-1)  # At 0.3 theta soon is not finite.
_MEMBERS = (1e-3, 1e-2, 5e-2)

_PROBLEM = """
run_train.lopt = @LearnableAdam()
run_train.num_estimators = 1
run_train.stochastic_resample_frequency = 0
GradientLearner.theta_opt = @Adam()
build_gradient_estimators.sample_task_family_fn = @five_quadratics
build_gradient_estimators.gradient_estimator_fn = @truncated_grad
truncated_grad.num_tasks = 16
truncated_grad.unroll_length = 10
truncated_grad.trunc_sched = @ConstantTruncationSchedule()
ConstantTruncationSchedule.total_length = 20
trainer.heldout_fn = @quadratic_fitness
"""
_POPULATION = """
run_train.staleness = 2
population.members = {members}
population.mutator = @WinnerTakeAllGenetic()
population.fitness_fn = @quadratic_fitness
population.evaluate_every_updates = 25
WinnerTakeAllGenetic.mutate_fn = @perturb
WinnerTakeAllGenetic.steps_per_exploit = 50
perturb.factors = (0.5, 1.0, 2.0)
"""


@gin.configurable(module="benchmarks")
def five_quadratics(unused_key: jax.Array) -> quadratics.FixedDimQuadraticFamily:
  """The one task family; the same object each time, so that it is compiled once."""
  return _FAMILY


@gin.configurable(module="benchmarks")
def quadratic_fitness(lopt: Any, theta: Any) -> dict[str, float]:
  """Minus the logarithm of the mean loss after training tasks that are the same each time."""
  optimizer = lopt.opt_fn(theta)

  def final_loss(key: jax.Array) -> Any:
    task_key, init_key = jax.random.split(key)
    task = _FAMILY.task_fn(_FAMILY.sample(task_key))

    def step(state: Any, unused: None) -> tuple[Any, None]:
      loss, gradient = jax.value_and_grad(task.loss)(optimizer.get_params(state), init_key, None)
      return optimizer.update(state, gradient, loss), None

    state, _ = jax.lax.scan(
      step, optimizer.init(task.init(init_key), num_steps=_INNER_STEPS), None, _INNER_STEPS
    )
    return task.loss(optimizer.get_params(state), init_key, None)

  losses = jax.lax.map(final_loss, jax.random.split(jax.random.PRNGKey(0), _N_TASKS))
  logs = jnp.log(losses)
  return {
    "accuracy": float(-jnp.log(losses.mean())),
    "standard_error": float(logs.std() / jnp.sqrt(_N_TASKS)),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the sweep and the population."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=200)
  arguments = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    sweep = {}
    for rate in _SWEEP:
      run = folder / f"sweep_{rate}"
      _run("train", run, arguments.steps, f"Adam.learning_rate = {rate}\n")
      summary = json.loads((run / "summary.json").read_text())
      sweep[rate] = round(summary["heldout_accuracy_after"], 4)
    members = [[f"Adam.learning_rate = {rate}"] for rate in _MEMBERS]
    text = _POPULATION.format(members=members)
    _run("launch", folder / "population", arguments.steps, text, "--workers=3")
    last = {row["member"]: row for row in history.read(folder / "population")}
    best = history.best(list(last.values()))
  assert best is not None
  print(
    json.dumps(
      {
        "steps": arguments.steps,
        "sweep": sweep,
        "best_of_sweep": max(sweep, key=lambda rate: sweep[rate]),
        "started_with": _MEMBERS,
        "ended_with": [float(last[m]["bindings"]["Adam.learning_rate"]) for m in sorted(last)],
        "best_member": float(best["bindings"]["Adam.learning_rate"]),
        "best_member_fitness": best["fitness"],
      }
    )
  )
  return 0


def _run(command: str, folder: pathlib.Path, steps: int, text: str, *flags: str) -> None:
  gin_file = folder.with_suffix(".gin")
  gin_file.write_text(f"{_PROBLEM}run_train.num_steps = {steps}\n{text}")
  subprocess.run(
    [
      *(sys.executable, "-m", "unsup_rule", command, f"--train_log_dir={folder}"),
      *(f"--config_file={gin_file}", "--gin_import=benchmarks.population", *flags),
    ],
    check=True,
    stdout=sys.stderr,
  )


if __name__ == "__main__":
  sys.exit(main())
