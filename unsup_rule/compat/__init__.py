"""Makes learned_optimization importable, fast to import, and the same in both its versions.

This package alone knows which learned_optimization is there (the PyPI release 0.0.1 or a checkout
of GitHub's HEAD) and which jax. Import it (or `unsup_rule`, which does) before
learned_optimization: importing it changes how the library is imported, and imports no more than
jax itself.

  compat.IS_HEAD, compat.LIBRARY_VERSION        what is installed
  compat.estimators.truncated_grad, ...         stock gradient estimators, one signature for both
  compat.trainer.gin_completion, ...            the library's trainer, one interface for both
"""

import importlib.util
import pathlib

import jax

from unsup_rule.compat import imports, jax_names

_MISSING = (
  "unsup_rule needs learned_optimization: run `pip install --no-deps "
  "learned-optimization==0.0.1` (--no-deps because the versions it pins cannot be resolved), or "
  "put a checkout of https://github.com/google/learned_optimization on PYTHONPATH."
)


def _library_folder() -> pathlib.Path:
  """The installed library's folder, found without importing it."""
  spec = importlib.util.find_spec("learned_optimization")
  if spec is None or spec.origin is None:
    raise ImportError(_MISSING, name="learned_optimization")
  return pathlib.Path(spec.origin).parent


IS_HEAD: bool = (_library_folder() / "outer_trainers" / "truncated_step.py").exists()
LIBRARY_VERSION: str = "HEAD" if IS_HEAD else "0.0.1"

imports.install()
if not IS_HEAD:
  jax_names.restore()

# Arrays that a jitted function captures become arguments of the compiled program instead of
# literals in it: without this a task's data dataset is copied into every compilation.
if hasattr(jax.config, "jax_use_simplified_jaxpr_constants"):
  jax.config.update("jax_use_simplified_jaxpr_constants", True)
