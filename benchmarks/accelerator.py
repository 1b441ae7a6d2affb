"""All that is to be known about an accelerator, in one command and eight minutes, without network.

  PYTHONPATH=WHEELS:. python3 -m benchmarks.accelerator

WHEELS is a folder that what the machine lacks was unpacked into (`pip install --target`). Agreement
with the authors' program, the rates of the card, the rule and whole estimates beside them, what the
host costs, and a meta-training in the time that is left: `build/accelerator.json`, written anew
after each finding. On a processor it does the same at small size.

The recipe `gin/rule.gin` is trained where its first phase's data sets lie in `DATA`, a few MB that
`python -m benchmarks.accelerator --pack` writes on a machine that has them; else `gin/laptop.gin`.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.cases import CASES
from benchmarks.measure import fastest, timed
from unsup_rule import storage
from unsup_rule.cli import main as cli
from unsup_rule.data import sets
from unsup_rule.machine import cores
from unsup_rule.machine.counting import needs
from unsup_rule.meta import gin_files, loop, outer_step, settings
from unsup_rule.meta.estimators import PRECISIONS
from unsup_rule.meta.training_run import MetaTrainingRun

ROOT = pathlib.Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "accelerator.json"
DATA = ROOT / "build" / "accelerator-data"
GOLDEN = ("default", "small_separate_grads")
Row = tuple[str, int, str | None]  # size, tasks, precision
# The most telling first: time may run out.
SIZES, TASKS = ("train", "paper", "laptop"), (256, 64, 1024)
GRID = tuple((size, tasks, how) for how in PRECISIONS for tasks in TASKS for size in SIZES)
STEPS = 25  # Of an estimate: a whole episode of the recipe.
TRAINING_SHARE = 0.4  # of the time, kept for a meta-training.


class Rates(NamedTuple):
  """What the device reaches: operations a second by precision, bytes a second of a copy."""

  operations: dict[str | None, float]
  bytes: float

  def share(self, size: str, n_tasks: int, precision: str | None, seconds: float) -> float:
    """Of the limit, arithmetic or bytes, that applications of so many tasks reach."""
    need = needs(CASES[size].apply, *jax.eval_shape(CASES[size].arguments))
    limit = max(need.operations / self.operations[precision], need.bytes / self.bytes)
    return n_tasks * limit / seconds


class Report:
  """Findings, on disk as soon as they are made."""

  def __init__(self, out: pathlib.Path, seconds: float):
    self._out, self._seconds, self._began = out, seconds, time.monotonic()
    self._rows: list[dict[str, object]] = []

  @property
  def left(self) -> float:
    """Seconds."""
    return self._seconds - (time.monotonic() - self._began)

  def add(self, what: str, **found: object) -> None:
    """Says a finding and keeps it."""
    row = {"what": what, **found, "at": round(time.monotonic() - self._began, 1)}
    self._rows.append(row)
    storage.write_text(self._out, json.dumps(self._rows, indent=1) + "\n")
    print(json.dumps(row), flush=True)

  @contextlib.contextmanager
  def attempt(self, what: str, **about: object) -> Iterator[None]:
    """Keeps what fails as a finding: one size that does not fit must not cost the others."""
    try:
      yield
    except Exception as error:
      reason = f"{type(error).__name__}: {str(error)[:300]}"
      self.add(what, **about, failed=reason)


def measure(out: pathlib.Path = OUT, seconds: float = 470, golden: Sequence[str] = GOLDEN) -> None:
  """Measures the device that jax uses, for about so many seconds, and checks recordings."""
  cores.as_devices()
  report = Report(out, seconds)
  small = jax.default_backend() == "cpu"
  grid = (("laptop", 4, None),) if small else GRID
  report.add(
    "device", kind=jax.devices()[0].device_kind, count=len(jax.devices()), jax=jax.__version__
  )
  pool = concurrent.futures.ThreadPoolExecutor(max(cores.available() // 2, 1))
  compiling = [(row, pool.submit(_first, *row)) for row in grid]
  rates = _rates(report, small)
  _golden(report, golden)
  for size in dict.fromkeys(size for size, *_ in grid):
    with report.attempt("application", size=size):
      _application(report, rates, size)
  _estimates(report, rates, compiling, TRAINING_SHARE * seconds)
  pool.shutdown(wait=False, cancel_futures=True)
  with report.attempt("training"):
    _training(report, out.with_name("accelerator-run"))
  report.add("done")


def pack() -> None:
  """Writes the data sets of the recipe's first phase into `DATA`."""
  for name, grey in (("glyphs", False), ("silhouettes", False), ("cifar10", True)):
    print(sets.pack(DATA, name, "train", resolution=10, grey=grey))


def _first(size: str, n_tasks: int, precision: str | None) -> tuple[float, Callable[[], object]]:
  """An estimate, and the seconds that it takes for the first time, compilation included."""
  run = CASES[size].estimate(n_tasks, STEPS, precision)
  began = time.perf_counter()
  run()
  return round(time.perf_counter() - began, 1), run


def _estimates(
  report: Report,
  rates: Rates,
  compiling: Sequence[tuple[Row, concurrent.futures.Future[tuple[float, Callable[[], object]]]]],
  kept: float,
) -> None:
  """Measures one estimate, and the others while more than `kept` seconds are left."""
  for index, ((size, n_tasks, precision), ready) in enumerate(compiling):
    about = {"size": size, "tasks": n_tasks, "precision": precision}
    if index and report.left < kept:
      continue
    with report.attempt("estimate", **about):
      first, run = ready.result(timeout=max(report.left - kept, 1) if index else None)
      found = _estimate(rates, run, size, n_tasks, precision)
      report.add("estimate", **about, first_seconds=first, **found)


def _estimate(
  rates: Rates, run: Callable[[], object], size: str, n_tasks: int, precision: str | None
) -> dict[str, float | None]:
  seconds = fastest(run, 2.0)
  stats = jax.devices()[0].memory_stats() or {}
  # Forward twice, since a step keeps its arguments only, and backward at twice that.
  share = rates.share(size, 4 * STEPS * n_tasks, precision, seconds)
  return {
    "seconds": round(seconds, 4),
    "inner_steps_per_second": round(STEPS * n_tasks / seconds, 1),
    "share_of_limit": round(share, 3),
    "peak_gigabytes_so_far": round(stats.get("peak_bytes_in_use", 0) / 1e9, 2) or None,
  }


def _rates(report: Report, small: bool) -> Rates:
  """The card's own limits: a large product at each precision, a copy."""
  n = 1024 if small else 8192
  a = jnp.ones((n, n))
  operations: dict[str | None, float] = {}
  for precision in PRECISIONS:
    with jax.default_matmul_precision(precision):
      product = jax.jit(lambda a: a @ a).lower(a).compile()
    seconds = fastest(lambda run=product: run(a).block_until_ready(), 0.5)
    operations[precision] = 2 * n**3 / seconds
    report.add("product", precision=precision, teraflops=round(operations[precision] / 1e12, 3))
  big = jnp.ones((2 ** (24 if small else 29),))
  copy = jax.jit(lambda x: x + 1).lower(big).compile()
  rate = 2 * big.nbytes / fastest(lambda: copy(big).block_until_ready(), 0.5)
  report.add("copy", gigabytes_per_second=round(rate / 1e9, 1))
  return Rates(operations, rate)


def _golden(report: Report, names: Sequence[str]) -> None:
  """Agreement with the authors' program, gradients included."""
  for name in names:
    said = io.StringIO()
    path = str(ROOT / "tests" / "golden" / f"{name}.npz")
    with report.attempt("verify", file=name), jax.default_matmul_precision("highest"):
      with contextlib.redirect_stdout(said):
        code = cli.main(["verify", path])
      failed = [line for line in said.getvalue().splitlines() if "FAILED" in line]
      report.add("verify", file=name, code=code, failed=failed)


def _application(report: Report, rates: Rates, size: str, n_tasks: int = 64) -> None:
  """The rule applied once to each of many tasks, and the gradient of that."""
  case = CASES[size]
  n_tasks = 4 if jax.default_backend() == "cpu" else n_tasks
  theta, phi, x = case.arguments()
  phis, xs = jax.tree.map(lambda leaf: jnp.stack([leaf] * n_tasks), (phi, x))
  for what, times, function in (("forward", 1, case.apply), ("gradient", 3, case.gradient)):
    found = timed(jax.vmap(function, (None, 0, 0)), theta, phis, xs, budget=1.0)
    report.add(
      what,
      size=size,
      tasks=n_tasks,
      seconds=round(found.seconds, 5),
      share_of_limit=round(rates.share(size, times * n_tasks, None, found.seconds), 3),
      compile_seconds=round(found.compile_seconds, 1),
      megabytes=round(found.megabytes),
    )


def _training(report: Report, folder: pathlib.Path) -> None:
  """What a step costs beside its estimate, and a meta-training in the time that is left."""
  packed = DATA.is_dir()
  config = str(ROOT / "gin" / ("rule.gin" if packed else "laptop.gin"))
  bindings = ["trainer.heldout_fn = None", "trainer.validation_fn = None"]
  bindings += [f"load_data.files = {str(DATA)!r}"] if packed else []
  found = settings.read(gin_files.parse([config], bindings, []), [])
  run = MetaTrainingRun(found)
  run.start()
  run.advance()
  estimate = fastest(lambda: _all_estimates(run), 2.0)
  # Reading by any other way than the one transfer of an estimate is an error on an accelerator.
  with jax.transfer_guard_device_to_host("disallow"):
    step = fastest(run.advance, 3.0)
  report.add(
    "outer step",
    seconds=round(step, 4),
    estimates_alone=round(estimate, 4),
    host=round(step - estimate, 4),
  )
  limits = dataclasses.replace(found.run, num_seconds=max(report.left - 15, 5), num_steps=10**6)
  loop.train(folder, dataclasses.replace(found, run=limits))
  with (folder / "curve.csv").open(newline="") as stream:
    rows = list(csv.DictReader(stream))
  curve = [(row["step"], row["seconds"], row["loss"]) for row in rows[:: len(rows) // 50 + 1]]
  report.add("training", config=pathlib.Path(config).name, steps=len(rows), curve=curve)


def _all_estimates(run: MetaTrainingRun) -> list[Any]:
  weights, key = run.weights(), jax.random.PRNGKey(0)
  return [outer_step.estimate(e.estimator, weights, key, e.unroll_state) for e in run.estimators]


if __name__ == "__main__":
  pack() if sys.argv[1:] == ["--pack"] else measure()
