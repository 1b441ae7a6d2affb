"""`unsup-rule import-tf CHECKPOINT OUT`: the authors' TensorFlow 1 weights as a theta of ours."""

import argparse
import dataclasses
import pathlib

import jax
import numpy as np

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.reference.tf_names import THETA_PREFIX, theta_from_tf
from unsup_rule.rule.theta import Sizes, sizes_of, specs


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Arguments of `import-tf`."""
  parser.add_argument("checkpoint", type=pathlib.Path, help="path prefix, .index file or folder")
  parser.add_argument("out", type=pathlib.Path, help="folder to write params and config.gin to")


def run(arguments: argparse.Namespace) -> int:
  """Writes OUT/params and OUT/config.gin."""
  from unsup_rule.meta.checkpoint import save_params

  variables = read_checkpoint(arguments.checkpoint)
  theta = theta_from_tf(variables)
  sizes = check(theta, arguments.checkpoint)
  if (arguments.out / "params").exists():
    raise UnsupRuleError(f"{arguments.out}/params exists already; choose another folder")
  storage.write_text(arguments.out / "config.gin", gin_config(sizes))
  save_params(arguments.out, theta, step=0)
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
  import tensorflow as tf

  try:
    reader = tf.train.load_checkpoint(prefix)
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith(THETA_PREFIX)]
    return {name: reader.get_tensor(name) for name in names}
  except (tf.errors.OpError, ValueError, RuntimeError) as error:
    reason = str(error).splitlines()[0][:200]
    raise UnsupRuleError(
      f"{prefix} cannot be read ({reason}); copy the checkpoint again"
    ) from error


def check(theta: dict[str, dict[str, np.ndarray]], path: pathlib.Path) -> Sizes:
  """The sizes of an imported theta, if it is whole."""
  try:
    sizes = sizes_of(theta)
  except KeyError as error:
    raise UnsupRuleError(
      f"{path} has no variable {THETA_PREFIX}{error.args[0]}; it is not a checkpoint of the rule"
    ) from error
  for name, spec in specs(sizes).items():
    module, _, leaf = name.rpartition("/")
    got = np.shape(theta.get(module, {}).get(leaf, ()))
    if got != spec.shape:
      raise UnsupRuleError(
        f"{path}: {THETA_PREFIX}{name} has shape {got}, expected {spec.shape}; "
        "the checkpoint is of another program"
      )
  return sizes


def gin_config(sizes: Sizes) -> str:
  """A config.gin that names the rule with these sizes."""
  lines = [f"UnsupervisedRule.{key} = {value}" for key, value in dataclasses.asdict(sizes).items()]
  return "\n".join(
    ["import unsup_rule.plugin.rule", *lines, "run_train.lopt = @UnsupervisedRule()", ""]
  )
