"""What packages beyond the light installation are for, and how they are had: one line an error."""

import importlib
import types

from unsup_rule.errors import UnsupRuleError

_LIBRARY = "pip install --no-deps learned-optimization==0.0.1"
# Extra -> the modules that it brings. Of several extras with a module, the first is named.
EXTRAS = {
  "train": (
    "absl",
    "chex",
    "etils",
    "filelock",
    "flax",
    "fontTools",
    "gin",
    "haiku",
    "importlib_resources",
    "jinja2",
    "learned_optimization",
    "matplotlib",
    "msgpack",
    "optax",
    "PIL",
    "tensorboard",
    "typeguard",
  ),
  "tfds": ("tensorflow_datasets",),
  "tf": ("tensorflow",),
  "ray": ("psutil", "ray"),
  "umap": ("umap",),
  "onnx": ("onnx", "onnxruntime"),
  "torch": ("torch",),
}


def missing(error: ImportError, what: str) -> UnsupRuleError | None:
  """The error that says how to get a module that is not there; None if no extra brings it.

  Args:
    error: of the import.
    what: needs the module.
  """
  module = (error.name or "").partition(".")[0]
  for extra, modules in EXTRAS.items():
    if module in modules:
      return UnsupRuleError(f"{what} needs {module}, which is not installed; {remedy(extra)}")
  return None


def remedy(extra: str) -> str:
  """How to get what an extra brings."""
  more = f" and then {_LIBRARY}" if extra == "train" else ""
  return f"run pip install 'unsup-rule[{extra}]'{more}"


def needed(module: str, what: str) -> types.ModuleType:
  """Imports a module of an extra.

  Raises:
    UnsupRuleError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise missing(error, what) or error from error
