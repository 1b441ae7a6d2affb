"""Subcommands of `unsup-rule`: each module has `add_arguments(parser)` and `run(arguments) -> int`."""
