"""Subcommands of `unsup-rule`: a module has `add_arguments(parser)` and `run(arguments) -> int`."""
