"""Our Task under names that the library's own benchmark tools know, and a small set of runs.

The library's `baselines` trains a named task with an optimizer, keeps the curve, and archives the
curves of a set of hyperparameters. It finds both by their gin names once this module is imported:

  python -m unsup_rule.evaluation.library_tasks --task=FewShotDigits8 --hparam_set=AdamLR_200_R2

trains the runs of the set and archives their curves, in $LOPT_BASELINE_DIR and
$LOPT_BASELINE_ARCHIVES_DIR. The library's own sets, such as AdamLR_2000_R5, work likewise.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import numpy as np

from unsup_rule import compat  # noqa: F401  (first: makes the library importable)
from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.task import MLPTask, MLPTaskFamily
from unsup_rule.tasks.sampler import TaskSampler
from unsup_rule.tasks.sources import DatasetSpec

from learned_optimization import optimizers as _optimizers  # noqa: F401  isort: skip
from learned_optimization.baselines import run_archive, run_trainer, utils  # isort: skip

# Configurations of single runs, and how many of them each folder of curves must hold.
HParamSet = tuple[list[dict[str, Any]], list[tuple[str, int]]]

# Name -> data set and widths of the hidden layers. A name stands for its numbers for good: archives
# refer to it.
TASKS = {
  "FewShotDigits8": ({"name": "digits"}, (48,)),
  "FewShotGlyphs8": ({"name": "glyphs", "resolutions": (8,), "ways": (10,)}, (48,)),
  "FewShotMnist14": ({"name": "mnist", "resolutions": (14,)}, (128, 128, 128, 128)),
  "FewShotFashionMnist14": (
    {"name": "fashion_mnist", "resolutions": (14,)},
    (128, 128, 128, 128),
  ),
}
_LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def _task_maker(name: str) -> Callable[[], MLPTask]:
  def make() -> MLPTask:
    settings, hidden = TASKS[name]
    data_set = DatasetSpec.from_settings(settings)
    sampler = TaskSampler([data_set.source(next(iter(data_set.resolutions), None))])
    family = MLPTaskFamily(sampler, hidden, name=name)
    # Permutation and classes of the one problem that a name stands for.
    return family.task_fn(family.sample(jax.random.PRNGKey(0)))

  make.__name__ = name
  make.__doc__ = f"The task {name}."
  return make


MAKERS = {name: gin.external_configurable(_task_maker(name), name) for name in TASKS}


@gin.configurable("AdamLR_200_R2", module="unsup_rule")
def adam_200_r2(task_name: str) -> HParamSet:
  """Adam for 200 steps at six learning rates, twice each."""
  return runs(task_name, _LEARNING_RATES, n_steps=200, repeats=2)


def runs(task_name: str, rates: Sequence[float], n_steps: int, repeats: int) -> HParamSet:
  """Adam at several learning rates, as the library writes such sets."""
  configurations, folders = [], []
  for rate in rates:
    place: dict[str, Any] = {
      "task_name": task_name,
      "opt_name": f"Adam_lr{rate}",
      "num_steps": n_steps,
      "eval_every": 10,
      "eval_batches": 5,
      "last_eval_batches": 10,
    }
    configurations.append(
      {
        "inner_train_task.task": f"@{task_name}()",
        "inner_train_task.opt": "@Adam()",
        "Adam.learning_rate": rate,
        **{f"inner_train_task.{key}": value for key, value in place.items()},
      }
    )
    folders.append((utils.get_save_dir(**place), repeats))
  return configurations * repeats, folders


def train(hparam_set: HParamSet) -> None:
  """Makes the training curves of a set, each from a seed of its own.

  Gin's configuration is used up by it.
  """
  configurations, _ = hparam_set
  for number, configuration in enumerate(configurations):
    gin.clear_config()
    for name, value in configuration.items():
      reference = isinstance(value, str) and value.startswith("@")
      gin.parse_config(f"{name} = {value if reference else repr(value)}")
    # The library takes the key of a run from numpy's global generator.
    np.random.seed(number)
    run_trainer.inner_train_task()
  gin.clear_config()


def main(argv: Sequence[str] | None = None) -> int:
  """Trains a set on a task and archives it; 2 for an unknown name."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--task", required=True, choices=sorted(TASKS))
  parser.add_argument("--hparam_set", default="AdamLR_200_R2")
  arguments = parser.parse_args(argv)
  try:
    hparam_set = _named(arguments.hparam_set)(arguments.task)
    train(hparam_set)
    run_archive.maybe_archive_hparam_set(arguments.task, arguments.hparam_set)
  except UnsupRuleError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(utils.get_baseline_archive_path(arguments.task, arguments.hparam_set))
  return 0


def _named(name: str) -> Callable[[str], HParamSet]:
  try:
    return gin.get_configurable(name)
  except ValueError as error:
    raise UnsupRuleError(
      f"no hyperparameter set {name!r}; use AdamLR_200_R2 or one of the library's"
    ) from error


if __name__ == "__main__":
  sys.exit(main())
