"""The flags of configuration, named as in learned_optimization's own entry points."""

import argparse

from unsup_rule.errors import UnsupRuleError


def add_arguments(
  parser: argparse.ArgumentParser, example: str, config_file: str = "gin file"
) -> None:
  """Adds --config_file, --gin_bindings and --gin_import, each repeatable.

  Args:
    parser: gets the flags.
    example: a binding, for the help text.
    config_file: what the file describes, for the help text.
  """
  for flag, metavar, text in (
    ("--config_file", "FILE", config_file),
    ("--gin_bindings", "BINDING", f"one binding, such as {example}"),
    ("--gin_import", "MODULE", "module whose configurables the gin files use"),
  ):
    parser.add_argument(
      flag, action="append", default=[], metavar=metavar, help=f"{text} (repeatable)"
    )


def check_precision() -> None:
  """Refuses to meta-train where jax computes in float64.

  Raises:
    UnsupRuleError: it does.
  """
  import jax  # Slow to import, and of no use to most commands.

  if jax.config.read("jax_enable_x64"):
    raise UnsupRuleError(
      "JAX_ENABLE_X64 is set, and learned_optimization's estimators compute in float32; unset it"
    )
