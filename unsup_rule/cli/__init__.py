"""The command `unsup-rule`."""
