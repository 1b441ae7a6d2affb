"""What a learner and its workers must have in common."""

import hashlib
from collections.abc import Mapping

import jax

import unsup_rule
from unsup_rule import compat
from unsup_rule.errors import UnsupRuleError

_PROTOCOL = "2"  # Of the calls between a worker and a learner.


def of_this_process(config_text: str) -> dict[str, str]:
  """Returns versions by name, and a digest of the configuration."""
  return {
    "protocol": _PROTOCOL,
    "unsup_rule": unsup_rule.__version__,
    "learned_optimization": compat.LIBRARY_VERSION,
    "jax": jax.__version__,
    "configuration": hashlib.sha256(config_text.encode()).hexdigest()[:12],
  }


def check(worker: int, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
  """Refuses a worker that differs.

  Raises:
    UnsupRuleError: names the first difference.
  """
  for name, value in ours.items():
    if theirs.get(name) != value:
      raise UnsupRuleError(
        f"worker {worker} has {name} {theirs.get(name)}, the learner {value}; install the same "
        "on every machine and start again"
      )
