"""Where numbers come from: theta, configuration, versions, machine."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

import flax.serialization
import jax
import msgpack

import unsup_rule
from unsup_rule import compat
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods.rule import Rule
from unsup_rule.rule.sizes import init_theta, sizes_of
from unsup_rule.rule.step_size import StepSize
from unsup_rule.training import checkpoint

_STEP_SIZE = re.compile(
  r"^\s*UnsupervisedRule\.(learning_rate|decay_steps|decay_power)\s*=\s*(\S+)", re.MULTILINE
)


def load_rule(folder: str | os.PathLike) -> tuple[Rule, str]:
  """Reads the rule of a run, or of `import-tf`: `params`, and `config.gin` for its step size.

  Returns:
    The rule, and the SHA-256 of its `params` file.

  Raises:
    UnsupRuleError: a file is missing or damaged, or holds no theta of the rule.
  """
  folder = pathlib.Path(folder)
  path = folder / "params"
  try:
    content = path.read_bytes()
    text = (folder / "config.gin").read_text()
  except OSError as error:
    raise UnsupRuleError(
      f"cannot read {error.filename}: {error.strerror}; give --rule the folder of a run, with "
      "params and config.gin"
    ) from error
  try:
    found: Any = flax.serialization.msgpack_restore(content)["params"]
    sizes = sizes_of(found)
  except (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    msgpack.exceptions.UnpackException,
  ) as error:
    raise UnsupRuleError(
      f"{path} is damaged or holds no theta of the rule; give the folder of a run that trained "
      "@UnsupervisedRule()"
    ) from error
  like = jax.eval_shape(lambda: init_theta(sizes, jax.random.PRNGKey(0)))
  theta = checkpoint.load_theta(path, like)
  step_size = StepSize(**_step_size_settings(folder, text))
  return Rule(theta, sizes, step_size), hashlib.sha256(content).hexdigest()


def _step_size_settings(folder: pathlib.Path, text: str) -> dict[str, float | None]:
  settings = {}
  for name, value in _STEP_SIZE.findall(text):
    try:
      settings[name] = None if value == "None" else float(value)
    except ValueError as error:
      raise UnsupRuleError(
        f"{folder}/config.gin binds UnsupervisedRule.{name} to {value}; give a number"
      ) from error
  return settings


def environment() -> dict[str, Any]:
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
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return platform.processor() or platform.machine()
  names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
  return names[0] if names else platform.machine()
