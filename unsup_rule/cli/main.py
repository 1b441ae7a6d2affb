"""The command `unsup-rule`. Each subcommand is a module, imported only when it runs."""

import argparse
import contextlib
import errno
import importlib
import io
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from unsup_rule import extras, locations
from unsup_rule.errors import UnsupRuleError

# name -> (module with `add_arguments(parser)` and `run(arguments) -> exit code`, help)
COMMANDS = {
  "train": ("unsup_rule.cli.train", "meta-train what a gin file describes"),
  "launch": ("unsup_rule.cli.launch", "meta-train with many processes, here or on a cluster"),
  "status": ("unsup_rule.cli.status", "show a run that launch started"),
  "report": ("unsup_rule.cli.report", "make one page to look at of a training run"),
  "describe": ("unsup_rule.cli.describe", "say and show what a gin file would sample"),
  "evaluate": ("unsup_rule.cli.evaluate", "measure a rule against baselines, with a report"),
  "rules": ("unsup_rule.cli.rules", "list the rules of the package, or print one's card"),
  "verify": ("unsup_rule.cli.verify", "compare with a recording of the authors' program"),
  "export": ("unsup_rule.cli.export", "turn a run into one file to ship, or into a folder"),
  "bench": ("unsup_rule.cli.bench", "time the rule beside the limits of the machine"),
  "import-tf": ("unsup_rule.cli.import_tf", "turn the authors' TensorFlow weights into ours"),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a subcommand and returns its exit code: 2 for an error a user can act on."""
  argv = list(sys.argv[1:] if argv is None else argv)
  # TensorFlow and XLA talk when they load; of how TensorFlow computes at any level, though it is
  # only asked to read data.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # Not all cards are ASCII.
      stream.reconfigure(errors="backslashreplace")
  try:
    # As `python -m` does: modules of --gin_import may lie in the current folder.
    if os.getcwd() not in sys.path:
      sys.path.append(os.getcwd())
  except FileNotFoundError:
    return _failed("the current folder is not there any more; change to another")
  try:
    return _run(_arguments(argv))
  except UnsupRuleError as error:
    return _failed(str(error))
  except ImportError as error:
    told = extras.missing(error, f"unsup-rule {argv[0]}")
    if told is None:
      raise
    return _failed(str(told))
  except BrokenPipeError:  # Whoever read, such as head, has enough.
    return 0
  except OSError as error:
    if error.filename is not None:
      return _failed(f"cannot use {error.filename}: {error.strerror}; give another path")
    if error.errno != errno.ENOSPC:
      raise
    return _failed("no room for what the command says; its files are written as far as it came")
  except (RuntimeError, AssertionError) as error:
    told = _without_devices(error)
    if told is None:
      raise
    return _failed(f"{told}; set JAX_PLATFORMS to what is there, such as cpu")
  except KeyboardInterrupt:
    return 130
  finally:
    _let_go_of_output()


def _without_devices(error: Exception) -> str | None:
  """What to say where jax has no device to compute on; None where the error is another."""
  if str(error).startswith("Unable to initialize backend"):
    return str(error).splitlines()[0]
  # Of NVIDIA GPUs that are asked for and not there, jax has an assertion without a word.
  silent = isinstance(error, AssertionError) and not str(error)
  where = pathlib.PurePath(traceback.extract_tb(error.__traceback__)[-1].filename)
  if silent and "jax" in where.parts:
    return f"jax finds no device for JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
  return None


def _let_go_of_output() -> None:
  """Writes what waits to be written; where that fails, Python is not to try again at its end."""
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except (OSError, ValueError, AttributeError):  # full or gone, closed, None
      with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  """Parses the command line; a leading tilde of a path is the home folder."""
  if any(re.fullmatch(r"(--\w[\w-]*=)?", argument) for argument in argv[1:]):
    raise UnsupRuleError("an argument is empty; is a variable of the shell not set?")
  parser = argparse.ArgumentParser(
    prog="unsup-rule",
    description=(
      "Meta-trains and checks the unsupervised weight-update rule of Metz et al. (ICLR 2019)."
    ),
  )
  subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name, (module, help_text) in COMMANDS.items():
    subparser = subparsers.add_parser(name, help=help_text, description=help_text)
    if name in argv[:1]:
      importlib.import_module(module).add_arguments(subparser)
  arguments = parser.parse_args(argv)
  home = {
    name: [_at_home(one) for one in value] if type(value) is list else _at_home(value)
    for name, value in vars(arguments).items()
  }
  return argparse.Namespace(**home)


def _at_home(value: object) -> object:
  """`value`, or the path that it stands for if it begins with a tilde."""
  if isinstance(value, (str, pathlib.Path)) and str(value).startswith("~"):
    return type(value)(locations.expanded(value))
  return value


def _run(arguments: argparse.Namespace) -> int:
  compilation = importlib.import_module("unsup_rule.machine.compilation")
  compilation.quickly_on_gpus()
  if arguments.command != "bench":  # It measures compilation.
    compilation.cache_on_disk()
    compilation.give_memory_back()
  return importlib.import_module(COMMANDS[arguments.command][0]).run(arguments)


def _failed(message: str) -> int:
  """Says in one line what went wrong; gin adds lines on where it was called from."""
  with contextlib.suppress(OSError, ValueError):
    print(f"unsup-rule: error: {message.splitlines()[0]}", file=sys.stderr)
  return 2
