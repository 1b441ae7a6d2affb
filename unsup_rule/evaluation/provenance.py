"""Where numbers come from: theta, configuration, versions, machine."""

import importlib.metadata
import os
import pathlib
import platform
import re

import jax

import unsup_rule
from unsup_rule import compat
from unsup_rule.evaluation.methods.rule import Rule
from unsup_rule.weights.pretrained import pretrained


def load_rule(rule: str | os.PathLike) -> tuple[Rule, str]:
  """Reads a rule: the folder of a run or of `import-tf`, a .npz file, or a shipped name.

  Returns:
    The rule, and the SHA-256 of its theta.

  Raises:
    UnsupRuleError: a file is missing or damaged, or holds no theta of the rule alone.
  """
  found = pretrained(rule)
  return Rule(found.theta, found.sizes, found.schedule), found.sha256


def environment() -> dict[str, str]:
  """Versions and the machine, as plain values."""
  return {
    "hardware": f"{_processor()}, {os.cpu_count()} cores, {jax.default_backend()}",
    "unsup_rule": unsup_rule.__version__,
    "jax": jax.__version__,
    "learned_optimization": compat.LIBRARY_VERSION,
    "scikit_learn": importlib.metadata.version("scikit-learn"),
    "python": platform.python_version(),
  }


def _processor() -> str:
  devices = jax.devices()
  if devices[0].platform != "cpu":
    return f"{len(devices)} x {devices[0].device_kind}"
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
  except OSError:
    return platform.processor() or platform.machine()
  names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
  return names[0] if names else platform.machine()
