"""Environment of the tests, of their workers and of all processes that tests start.

Import it before jax, which reads it once.
"""

import importlib.util
import mmap
import os
import pathlib
import shutil
import tempfile

from folders import ROOT, SUPPORT

# Most of the tests' time is compilation, and what is compiled runs for milliseconds. The second
# is worth most: five of six seconds for one update of a tiny rule.
_QUICK_COMPILATION = (
  # A small program is not worth being split and put together again.
  "--xla_cpu_parallel_codegen_split_count=1",
  "--xla_cpu_use_fusion_emitters=false",
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
)
_MARK = "UNSUP_RULE_TESTS_FOLDER"


def _known(flags: tuple[str, ...]) -> list[str]:
  """Those that this jaxlib knows; XLA ends a process for any other."""
  spec = importlib.util.find_spec("jaxlib")
  assert spec is not None
  assert spec.origin is not None
  missing = set(flags)
  for library in pathlib.Path(spec.origin).parent.glob("*.so"):
    with library.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as text:
      # Between zeros: names of flags that are gone are kept in lists of reserved names.
      missing -= {f for f in missing if text.find(f"\0{f[2:].split('=')[0]}\0".encode()) >= 0}
  return [flag for flag in flags if flag not in missing]


def set_up() -> None:
  """Sets it, once: workers and other processes inherit it."""
  if _MARK in os.environ:
    return
  os.environ[_MARK] = tempfile.mkdtemp(prefix="unsup-rule-tests-")
  path = [*filter(None, [os.environ.get("PYTHONPATH")]), str(SUPPORT), str(ROOT)]
  os.environ["PYTHONPATH"] = os.pathsep.join(path)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  flags = [*_known(_QUICK_COMPILATION), *filter(None, [os.environ.get("XLA_FLAGS")])]
  os.environ["XLA_FLAGS"] = " ".join(flags)
  os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # Fewer pools of memory, each with gaps.
  # Threads of numpy's linear algebra wait for one another by spinning: where two workers share two
  # cores, a few draws of scikit-learn's solvers took ten times as long with them.
  os.environ.setdefault("OMP_NUM_THREADS", "1")
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
  # All processes of one session share what they compile.
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ[_MARK])
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def clean_up() -> None:
  """Removes the compiled programs of the session; for the process that started it."""
  shutil.rmtree(os.environ.pop(_MARK), ignore_errors=True)


set_up()
