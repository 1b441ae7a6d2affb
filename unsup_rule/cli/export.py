"""`unsup-rule export`: a meta-trained rule as one file to ship, or as a folder for the library."""

import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import subprocess
from collections.abc import Sequence

import jax

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.schedule import InnerSchedule, read_setting
from unsup_rule.weights import hub
from unsup_rule.weights.pretrained import Pretrained, averaged, pretrained

# Of summary.json: (key, words of the card).
_MEASURED = (
  ("heldout_untrained_accuracy_before", "the same networks untrained"),
  ("heldout_accuracy_before", "the rule before meta-training"),
  ("heldout_accuracy_after", "the rule"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Arguments of `export`."""
  parser.add_argument(
    "--rule",
    required=True,
    nargs="+",
    help="folder of a run, .npz file, or shipped name; of several, which descend from one another, "
    "the mean of their thetas is exported, and the last one's configuration",
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    help="FILE.npz, which gets a model card FILE.md beside it; or a folder for rule.npz, "
    "params and config.gin, which opt_from_checkpoint of learned_optimization loads",
  )
  parser.add_argument(
    "--push",
    metavar="hf://OWNER/NAME",
    help="put the rule and its card into this repository of the Hugging Face Hub, from which "
    "`pretrained` loads it; needs huggingface_hub and `hf auth login`",
  )
  parser.add_argument(
    "--dynamics",
    nargs="+",
    default=[],
    metavar="NAME=VALUE",
    help="how its changes are applied, where that is to be different: any of "
    + ", ".join(field.name for field in dataclasses.fields(InnerSchedule)),
  )
  parser.add_argument("--about", help="a sentence or two for the model card")
  parser.add_argument("--steps", type=int, help="applications that the rule is at its best with")
  parser.add_argument("--batch-size", type=int, help="examples of one application")
  parser.add_argument("--core-hours", type=_amount, help="that meta-training took of processors")
  parser.add_argument("--gpu-minutes", type=_amount, help="that meta-training took of GPUs")
  parser.add_argument("--commit", help="that it was trained at (default: of this checkout)")


def run(arguments: argparse.Namespace) -> int:
  """Writes the file or the folder, or pushes.

  Raises:
    UnsupRuleError: no such rule, nowhere to put it, or it cannot be put there.
  """
  if arguments.push is not None:
    name = hub.repository(arguments.push)
  elif arguments.out is not None:
    name = arguments.out.stem
  else:
    raise UnsupRuleError("nowhere to export to; give --out, or --push hf://owner/name")
  rule = _asked(arguments, name)
  if arguments.out is not None:
    _write(rule, arguments.out)
    _say(rule, arguments.out)
  if arguments.push is not None:
    _say(rule, hub.push(arguments.push, rule, _card(rule)))
  return 0


def _say(rule: Pretrained, where: str | pathlib.Path) -> None:
  print(f"{_count(rule):,} parameters of the rule, sha256 {rule.sha256[:12]} -> {where}")


def _asked(arguments: argparse.Namespace, name: str) -> Pretrained:
  """The rule, with what the command line says of it."""
  rule = averaged([pretrained(rule) for rule in arguments.rule])
  use = {"steps": arguments.steps, "batch_size": arguments.batch_size}
  told = {
    "about": _text(arguments.about),
    "core_hours": arguments.core_hours,
    "gpu_minutes": arguments.gpu_minutes,
    "commit": arguments.commit or rule.provenance.get("commit") or _commit(),
  }
  return dataclasses.replace(
    rule,
    name=name.rpartition("/")[2],
    schedule=_changed(rule.schedule, arguments.dynamics),
    use=dataclasses.replace(rule.use, **{k: v for k, v in use.items() if v is not None}),
    provenance=rule.provenance | {k: v for k, v in told.items() if v is not None},
  )


def _text(argument: str | None) -> str | None:
  """What was typed, in UTF-8 also where the locale says that all is ASCII."""
  return None if argument is None else os.fsencode(argument).decode(errors="replace")


def _amount(value: str) -> float:
  """A number of hours or minutes, for argparse."""
  with contextlib.suppress(ValueError):
    if 0 <= (amount := float(value)) < math.inf:
      return amount
  raise argparse.ArgumentTypeError(f"{value!r}; give a number from 0 up")


def _write(rule: Pretrained, out: pathlib.Path) -> None:
  """Writes the file and its card, or the folder."""
  if out.suffix != ".npz":
    from unsup_rule.meta import run_folder

    run_folder.write_rule(out, rule)
    return
  for path in (out, out.with_suffix(".md")):
    if path.exists():
      raise UnsupRuleError(f"{path} exists already; remove it or choose another name")
  rule.write(out)
  try:
    storage.write_text(out.with_suffix(".md"), _card(rule))
  except BaseException:
    out.unlink()  # Else the same command would be refused once there is room.
    raise


def _changed(schedule: InnerSchedule, settings: Sequence[str]) -> InnerSchedule:
  """The schedule with these settings, each NAME=VALUE."""
  known = {field.name for field in dataclasses.fields(InnerSchedule)}
  changes = {}
  for setting in settings:
    name, _, value = setting.partition("=")
    if name not in known:
      raise UnsupRuleError(f"--dynamics names {name!r}; use {', '.join(sorted(known))}")
    try:
      changes[name] = read_setting(value)
    except (ValueError, SyntaxError) as error:
      raise UnsupRuleError(f"--dynamics sets {name} to {value!r}; give a plain value") from error
  return dataclasses.replace(schedule, **changes)


def _count(rule: Pretrained) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(rule.theta))


def _commit() -> str | None:
  """Of the checkout that this module is in; None for an installed package or without git."""
  try:
    done = subprocess.run(
      ["git", "rev-parse", "HEAD"],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def _card(rule: Pretrained) -> str:
  """The model card: what the archive knows, for people."""
  known = rule.provenance
  schedule = rule.schedule
  lr = f"{schedule.learning_rate:g}"
  if schedule.decay_steps is not None:
    lr += f" / (1 + t / {schedule.decay_steps:g})^{schedule.decay_power:g}"
  facts = {
    "parameters": f"{_count(rule):,}",
    "width of the embedding": rule.sizes.output_size,
    "step size": lr,
    "biases of hidden layers decay to": f"{schedule.hidden_bias:g}",
    "biases of the embedding decay to": f"{schedule.embedding_bias:g}",
    "inputs": "in a random order" if schedule.shuffle_inputs else None,
    "applications, examples of each": f"{rule.use.steps}, {rule.use.batch_size}",
    "data sets of meta-training": ", ".join(known.get("data_sets", ())) or None,
    "outer steps": known.get("outer_steps"),
    "wall-clock of meta-training": f"{known['seconds']:.0f} s" if "seconds" in known else None,
    "core-hours": known.get("core_hours"),
    "GPU-minutes": known.get("gpu_minutes"),
    "mean of the thetas with SHA-256": ", ".join(f"`{s[:12]}`" for s in known.get("mean_of", ()))
    or None,
    "seed": known.get("seed"),
    "commit": known.get("commit"),
    "SHA-256 of theta": f"`{rule.sha256}`",
  }
  rows = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
  measured = [f"| {words} | {known[key]:.3f} |" for key, words in _MEASURED if key in known]
  if measured:
    measured = ["", "| held out | accuracy |", "|---|---|", *measured]
  return "\n".join(
    [
      f"# {rule.name}",
      "",
      known.get("about") or "A meta-trained unsupervised update rule.",
      "",
      "| | |",
      "|---|---|",
      *rows,
      *measured,
      "",
      "Configuration of its meta-training:",
      "",
      "```",
      known.get("gin", "").strip(),
      "```",
      "",
    ]
  )
