"""Time and memory of `UnsupervisedFeatures` beside scikit-learn's ways to features.

Each method runs in a process of its own, since a process's peak memory never falls.
"""

import json
import pathlib
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import memory

N_FEATURES = 32
_SEED = 0


class Cost(NamedTuple):
  """Of one method on one data set.

  Attributes:
    fit_seconds: of the first fit of the process, compilation included.
    again_seconds: of another fit of the same shape.
    transform_seconds: of all rows.
    megabytes: by which the peak memory of the process grew in all that, beyond Python and the data;
      what the method imports is part of it.
  """

  fit_seconds: float
  again_seconds: float
  transform_seconds: float
  megabytes: float


def _rule() -> Any:
  from unsup_rule.features.transformer import UnsupervisedFeatures

  return UnsupervisedFeatures(random_state=_SEED)


def _pca() -> Any:
  from sklearn.decomposition import PCA

  return PCA(N_FEATURES, random_state=_SEED)


def _kmeans() -> Any:
  from sklearn.cluster import KMeans

  make: Any = KMeans
  return make(N_FEATURES, n_init=1, random_state=_SEED)


def _autoencoder() -> Any:
  from sklearn.neural_network import MLPRegressor

  layers = (128,) * 4 + (N_FEATURES,) + (128,) * 4
  make: Any = MLPRegressor
  return make(
    hidden_layer_sizes=layers,
    batch_size=128,
    max_iter=10,
    n_iter_no_change=10,
    random_state=_SEED,
  )


METHODS: dict[str, Callable[[], Any]] = {
  "UnsupervisedFeatures": _rule,
  "PCA": _pca,
  "KMeans": _kmeans,
  "MLP autoencoder": _autoencoder,
}


def data(rows: int, columns: int) -> np.ndarray:
  """Rows near a curved surface of ten dimensions, float32; the same each time."""
  rng = np.random.default_rng(_SEED)
  latent = rng.normal(size=(rows, 10)) @ rng.normal(size=(10, columns))
  return (np.tanh(latent) + 0.1 * rng.normal(size=(rows, columns))).astype(np.float32)


def cost(method: str, rows: int, columns: int) -> Cost:
  """Measures a method in a new process.

  Raises:
    UnsupRuleError: it failed.
  """
  command = [sys.executable, "-m", __name__, method, str(rows), str(columns)]
  checkout = pathlib.Path(__file__).parents[1]
  done = subprocess.run(command, capture_output=True, text=True, cwd=checkout)
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise UnsupRuleError(f"{method} failed on {rows} x {columns}: {last}; try fewer rows")
  return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _measure(method: str, rows: int, columns: int) -> Cost:
  x = data(rows, columns)
  warnings.filterwarnings("ignore", module="sklearn")  # The autoencoder's ten epochs are few.
  before = _peak_megabytes()
  seconds = []
  for _ in range(2):
    model = METHODS[method]()
    target = (x,) if method == "MLP autoencoder" else ()
    began = time.perf_counter()
    model.fit(x, *target)
    seconds.append(time.perf_counter() - began)
  began = time.perf_counter()
  model.predict(x) if method == "MLP autoencoder" else model.transform(x)
  transform_seconds = time.perf_counter() - began
  return Cost(seconds[0], seconds[1], transform_seconds, _peak_megabytes() - before)


def _peak_megabytes() -> float:
  status = pathlib.Path("/proc/self/status")
  if status.exists():  # Unlike the next, it does not begin with the parent's peak.
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    if found:
      return int(found[1]) / 1e3
  return memory.peak_bytes() / 1e6


def main(argv: Sequence[str]) -> None:
  """Measures in this process and prints JSON: METHOD ROWS COLUMNS."""
  method, rows, columns = argv
  print(json.dumps(_measure(method, int(rows), int(columns))._asdict()))


if __name__ == "__main__":
  main(sys.argv[1:])
