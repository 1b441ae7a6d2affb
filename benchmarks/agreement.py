"""Compares local training with asynchronous training of the same gin file, at equal gradients.

  python -m benchmarks.agreement --steps=300

Both start from the same theta and draw other random numbers, so their curves differ by noise; how
large that is, a second local run with another seed for its problems shows. Prints one line of JSON.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np


def main(argv: Sequence[str] | None = None) -> int:
  """Trains locally and with two workers."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config_file", default="smoke.gin")
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--binding", action="append", default=[])
  parser.add_argument("--gin_import", action="append", default=[])
  arguments = parser.parse_args(argv)
  common = [
    f"--config_file={arguments.config_file}",
    f"--gin_bindings=run_train.num_steps = {arguments.steps}",
    *(f"--gin_bindings={binding}" for binding in arguments.binding),
    *(f"--gin_import={module}" for module in arguments.gin_import),
  ]
  runs = {
    "local": ["train"],
    "local_again": ["train", "--gin_bindings=trainer.seed = 1"],
    "two_workers": [
      "launch",
      f"--workers={arguments.workers}",
      "--gin_bindings=run_train.staleness = 4",
    ],
  }
  with tempfile.TemporaryDirectory() as temporary:
    losses = {}
    for name, (command, *flags) in runs.items():
      folder = pathlib.Path(temporary) / name
      subprocess.run(
        [
          *(sys.executable, "-m", "unsup_rule", command, f"--train_log_dir={folder}"),
          *common,
          *flags,
        ],
        check=True,
        stdout=sys.stderr,
      )
      with open(folder / "curve.csv", newline="") as stream:
        losses[name] = np.asarray([float(row["loss"]) for row in csv.DictReader(stream)])
  print(json.dumps({"steps": arguments.steps, **compare(losses)}))
  return 0


def compare(losses: dict[str, np.ndarray], n_blocks: int = 10) -> dict[str, object]:
  """Returns means of the curves over blocks of steps, and by how many standard errors they differ.

  Args:
    losses: by run, [steps].
    n_blocks: blocks; the standard error of a block's mean is taken from its own scatter.
  """
  means, errors = {}, {}
  for name, curve in losses.items():
    blocks = np.array_split(curve, n_blocks)
    means[name] = np.asarray([block.mean() for block in blocks])
    errors[name] = np.asarray([block.std(ddof=1) / np.sqrt(len(block)) for block in blocks])

  def differences(one: str, other: str) -> list[float]:
    scale = np.hypot(errors[one], errors[other])
    return np.round((means[one] - means[other]) / scale, 2).tolist()

  return {
    "means": {name: np.round(values, 4).tolist() for name, values in means.items()},
    "two_workers_minus_local_in_standard_errors": differences("two_workers", "local"),
    "local_again_minus_local_in_standard_errors": differences("local_again", "local"),
  }


if __name__ == "__main__":
  sys.exit(main())
