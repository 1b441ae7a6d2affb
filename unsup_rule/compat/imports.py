"""Defers what learned_optimization imports but seldom uses, TensorFlow above all.

TensorFlow takes 10 s and 500 MB to import. The library imports it at the top of its modules, uses
it only to read data sets and to write event files, and flax's file layer imports it when it is
there. Here the library's own modules (nobody else's) see stand-ins in place of such modules,
which import the real one when something of it is first used. `sys.modules` holds no stand-in, so
all other code imports TensorFlow as ever.
"""

import builtins
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

LIBRARY = "learned_optimization"
MISSING = (
  "unsup_rule needs learned_optimization: run `pip install --no-deps "
  "learned-optimization==0.0.1` (--no-deps because the versions it pins cannot be resolved), or "
  "put a checkout of https://github.com/google/learned_optimization on PYTHONPATH."
)


class _DeferredModule(types.ModuleType):
  """Stands for the module `name`, which is imported when an attribute is first used."""

  def __init__(self, name: str, **ready: Any):
    super().__init__(name)
    self.__dict__.update(ready)

  def __getattr__(self, attribute: str) -> Any:
    return getattr(importlib.import_module(self.__name__), attribute)


def _deferred_call(module: str, name: str) -> Callable[..., Any]:
  """Stands for a class that library modules name at import but call later, if at all."""

  def call(*args, **kwargs):
    return getattr(importlib.import_module(module), name)(*args, **kwargs)

  return call


# `enable_v2_behavior` asks for what is TensorFlow's default since 2.0, so it can do nothing.
_TENSORFLOW_V2 = _DeferredModule("tensorflow.compat.v2", enable_v2_behavior=lambda: None)
_DEFERRED = {
  module.__name__: module
  for module in (
    _DeferredModule(
      "tensorflow",
      compat=_DeferredModule(
        "tensorflow.compat",
        v1=_DeferredModule("tensorflow.compat.v1"),
        v2=_TENSORFLOW_V2,
      ),
    ),
    _DeferredModule("tensorflow_datasets"),
    # The library's RPC, which has no wheels for current Pythons; distributed/ does without.
    _DeferredModule(
      "courier",
      Server=_deferred_call("courier", "Server"),
      Client=_deferred_call("courier", "Client"),
    ),
  )
}
_FLAX_METRICS = types.SimpleNamespace(
  tensorboard=_DeferredModule(
    "flax.metrics.tensorboard",
    SummaryWriter=_deferred_call("flax.metrics.tensorboard", "SummaryWriter"),
  )
)


def _library_import(name, globals=None, locals=None, fromlist=(), level=0):
  """`__import__` as learned_optimization's modules see it."""
  if level == 0:
    # `import tensorflow.compat.v2 as tf` asks for the package and walks down its attributes.
    if not fromlist and name in (*_DEFERRED, "tensorflow.compat.v1", "tensorflow.compat.v2"):
      return _DEFERRED[name.partition(".")[0]]
    if name == "flax.metrics" and tuple(fromlist or ()) == ("tensorboard",):
      return _FLAX_METRICS
  return builtins.__import__(name, globals, locals, fromlist, level)


def _flax_io_import(name, globals=None, locals=None, fromlist=(), level=0):
  """`__import__` as flax.io sees it: a Python without TensorFlow, so it uses native files."""
  if name == "importlib" and not fromlist:

    def find_spec(module: str):
      return None if module == "tensorflow" else importlib.util.find_spec(module)

    return types.SimpleNamespace(util=types.SimpleNamespace(find_spec=find_spec))
  return builtins.__import__(name, globals, locals, fromlist, level)


@contextlib.contextmanager
def _muted(*openings: str) -> Iterator[None]:
  """Drops absl log records that begin with one of `openings`."""
  logger = logging.getLogger("absl")

  def keep(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(openings)

  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)


class _Loader(importlib.machinery.SourceFileLoader):
  """Runs a module with its own `__import__`, without two messages that need no attention.

  The library's first module finds jax as the library expects it.
  """

  def exec_module(self, module: types.ModuleType) -> None:
    own_import = _flax_io_import
    if module.__name__ != "flax.io":
      own_import = _library_import
      importlib.import_module("unsup_rule.compat.jax_names").prepare()
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": own_import}
    with _muted("Oryx not found", "Tensorflow library not found"):
      super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
  """Finds learned_optimization's modules and flax.io as ever, and loads them with `_Loader`."""

  def find_spec(self, fullname, path=None, target=None):
    if fullname == "flax.io":
      if "tensorflow" in sys.modules:
        return None
    elif fullname.partition(".")[0] != LIBRARY:
      return None
    for finder in sys.meta_path:
      if finder is not self and hasattr(finder, "find_spec"):
        spec = finder.find_spec(fullname, path, target)
        if spec is not None:
          if isinstance(spec.loader, importlib.machinery.SourceFileLoader) and spec.origin:
            spec.loader = _Loader(fullname, spec.origin)
          return spec
    if fullname == LIBRARY:
      raise ModuleNotFoundError(MISSING, name=LIBRARY)
    return None


def install() -> None:
  """Puts the finder in place; modules that are loaded already stay as they are."""
  if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
