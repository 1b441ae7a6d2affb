"""Timings of the rule against what the machine can do."""
