"""Makes learned_optimization importable, fast to import, and the same in both its versions.

This package alone knows which learned_optimization is there (the PyPI release 0.0.1 or a checkout
of GitHub's HEAD) and which jax. Import it (or `unsup_rule`, which does) before
learned_optimization: it changes how the library is imported, and imports nothing itself. Where the
library is missing that is said when something of it is first imported or asked for.

  compat.IS_HEAD, compat.LIBRARY_VERSION   what is installed, looked up when first asked for
"""

import importlib.util
import pathlib

from unsup_rule.compat import imports

IS_HEAD: bool
LIBRARY_VERSION: str

imports.install()


def __getattr__(name: str) -> bool | str:
  if name == "LIBRARY_VERSION":
    value = "HEAD" if _is_head() else "0.0.1"
  elif name == "IS_HEAD":
    value = _is_head()
  else:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  globals()[name] = value
  return value


def _is_head() -> bool:
  """Looks into the installed library's folder, without importing it."""
  spec = importlib.util.find_spec(imports.LIBRARY)
  if spec is None or spec.origin is None:  # A folder of that name that is not the library.
    raise ImportError(imports.MISSING, name=imports.LIBRARY)
  return (pathlib.Path(spec.origin).parent / "outer_trainers" / "truncated_step.py").exists()
