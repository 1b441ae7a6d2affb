"""`unsup-rule import-tf CHECKPOINT OUT`: the authors' TensorFlow 1 weights as a theta of ours."""

import argparse
import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from unsup_rule import extras
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import scratch
from unsup_rule.reference.tf_names import THETA_PREFIX, theta_from_tf
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.theta import Sizes, sizes_of
from unsup_rule.weights.archive import Archive, Use, check_fits


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Arguments of `import-tf`."""
  parser.add_argument("checkpoint", type=pathlib.Path, help="path prefix, .index file or folder")
  parser.add_argument(
    "out", type=pathlib.Path, help="folder to write rule.npz, params and config.gin to"
  )


def run(arguments: argparse.Namespace) -> int:
  """Writes OUT/rule.npz, OUT/params and OUT/config.gin."""
  from unsup_rule.meta import run_folder

  theta: Any = theta_from_tf(read_checkpoint(arguments.checkpoint))
  sizes = check(theta, arguments.checkpoint)
  run_folder.write_rule(arguments.out, Archive(theta, InnerSchedule(), Use(), {}))
  count = sum(leaf.size for leaf in jax.tree.leaves(theta))
  print(
    f"{count:,} parameters of the rule, embedding of {sizes.output_size} units -> {arguments.out}"
  )
  return 0


def read_checkpoint(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Variables of the rule in a TensorFlow checkpoint."""
  if path.is_dir():
    found = sorted(path.glob("*.index"))
    if len(found) != 1:
      raise UnsupRuleError(f"{path} holds {len(found)} checkpoints; name one by its path prefix")
    path = found[0]
  prefix = str(path).removesuffix(".index")
  if not pathlib.Path(f"{prefix}.index").is_file():
    raise UnsupRuleError(f"{prefix}.index: no such file; give the checkpoint's path prefix")
  tf = extras.needed("tensorflow", "import-tf")
  try:
    with _plain(pathlib.Path(prefix)) as plain:
      reader = tf.train.load_checkpoint(str(plain))
      names = [n for n in reader.get_variable_to_shape_map() if n.startswith(THETA_PREFIX)]
      return {name: reader.get_tensor(name) for name in names}
  except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
    reason = str(error).splitlines()[0][:200]
    raise UnsupRuleError(
      f"{prefix} cannot be read ({reason}); copy the checkpoint again"
    ) from error


@contextlib.contextmanager
def _plain(prefix: pathlib.Path) -> Iterator[pathlib.Path]:
  """The same files under a plain path: TensorFlow takes brackets and the like for patterns."""
  with tempfile.TemporaryDirectory(dir=scratch.own_folder()) as folder:
    for path in prefix.parent.iterdir():
      if path.name.startswith(f"{prefix.name}."):
        suffix = path.name.removeprefix(prefix.name)
        pathlib.Path(folder, f"checkpoint{suffix}").symlink_to(path.resolve())
    yield pathlib.Path(folder, "checkpoint")


def check(theta: dict[str, dict[str, np.ndarray]], path: pathlib.Path) -> Sizes:
  """The sizes of an imported theta, if it is whole."""
  try:
    sizes = sizes_of(theta)
  except KeyError as error:
    raise UnsupRuleError(
      f"{path} has no variable {THETA_PREFIX}{error.args[0]}; it is not a checkpoint of the rule"
    ) from error
  check_fits(theta, sizes, str(path))
  return sizes
