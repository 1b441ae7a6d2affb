"""Environment of the tests, of their workers and of all processes that tests start."""

import os
import shutil
import tempfile

from folders import ROOT, SUPPORT

# Set before jax is imported, and inherited by workers and by the processes that tests start.
os.environ["PYTHONPATH"] = os.pathsep.join(
  [*filter(None, [os.environ.get("PYTHONPATH")]), str(SUPPORT), str(ROOT)]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation; programs that run for milliseconds need no optimization.
os.environ.setdefault(
  "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# All processes of one session share what they compile.
_programs = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _programs = tempfile.mkdtemp(prefix="unsup-rule-tests-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def clean_up() -> None:
  """Removes the compiled programs, in the process that made their folder."""
  if _programs:
    shutil.rmtree(_programs, ignore_errors=True)
