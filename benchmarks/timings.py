"""Times the rule, its gradient and a truncation beside the machine's limits: `unsup-rule bench`."""

import argparse
import json
import pathlib
import platform
from collections.abc import Callable

import jax

from benchmarks import features
from benchmarks.cases import CASES
from benchmarks.measure import Machine, fastest, machine, timed
from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import cores
from unsup_rule.machine.counting import needs

# (name, size) -> unit; what is compared with the committed results.
Row = dict[str, str | float | None]
Record = Callable[..., None]
_RESULTS = pathlib.Path(__file__).parent / "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Arguments of `bench`."""
  parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="names of sizes (default: all)")
  parser.add_argument("--tasks", nargs="+", type=int, default=[1, 8, 64], help="tasks side by side")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/bench.json"))
  parser.add_argument("--against", type=pathlib.Path, default=_RESULTS, help="earlier results")
  parser.add_argument(
    "--features",
    nargs=2,
    type=int,
    metavar=("ROWS", "COLUMNS"),
    help="measure UnsupervisedFeatures beside PCA, k-means and an autoencoder instead",
  )
  parser.add_argument(
    "--longest", type=float, default=60.0, help="seconds a truncation may take to be measured"
  )


def run(arguments: argparse.Namespace) -> int:
  """Prints a table and writes the rows as JSON.

  Raises:
    UnsupRuleError: an unknown size, or numbers that nothing can be measured with.
  """
  if arguments.out.is_dir():
    raise UnsupRuleError(f"--out is {arguments.out}, a folder; give a file")
  if min(arguments.tasks) < 1 or not arguments.longest > 0:
    raise UnsupRuleError("--tasks or --longest is no positive number; give one")
  if arguments.features:
    n_rows, n_columns = arguments.features
    if min(n_rows, n_columns) < features.N_FEATURES:
      raise UnsupRuleError(
        f"--features is {n_rows} {n_columns}; give at least {features.N_FEATURES} of each"
      )
    return _features(n_rows, n_columns, arguments.out)
  cores.as_devices()
  names = arguments.sizes or list(CASES)
  for name in names:
    if name not in CASES:
      raise UnsupRuleError(f"unknown size {name!r}; choose from {', '.join(CASES)}")
  earlier = _read(arguments.against)
  m = machine()
  device = jax.devices()[0]
  print(
    f"{platform.machine()}, {device.device_kind} ({jax.default_backend()}), jax {jax.__version__}"
  )
  rows: list[Row] = []

  def record(name: str, size: str, value: float, unit: str, limit: float | None = None) -> None:
    rows.append({"name": name, "size": size, "value": value, "unit": unit, "limit": limit})
    before = earlier.get((name, size))
    against = f"   {value / before:5.2f} x before" if before else ""
    reached = f"   limit {limit:9.3g}" if limit is not None else " " * 18
    print(f"{size:14} {name:24} {value:10.3f} {unit:8}{reached}{against}", flush=True)

  record("matmul_1024", "machine", 1e3 * m.matmul_seconds, "ms")
  record("arithmetic", "machine", m.operations_per_second / 1e9, "GFLOP/s")
  record("copy", "machine", m.bytes_per_second / 1e9, "GB/s")
  for name in names:
    step_seconds = _application(name, m, record)
    for n_tasks in arguments.tasks:
      predicted = 10 * n_tasks * step_seconds
      if predicted > arguments.longest:
        print(f"{name}*{n_tasks}: not run, a truncation would take about {predicted:.0f} s")
      else:
        _truncation(name, n_tasks, record)
  storage.write_text(arguments.out, json.dumps(rows, indent=1) + "\n")
  print(f"written to {arguments.out}")
  return 0


def _features(n_rows: int, n_columns: int, out: pathlib.Path) -> int:
  """Time and memory of ways to features."""
  rows: list[Row] = []
  print(f"{n_rows} x {n_columns}{'fit':>18}{'fit again':>12}{'transform':>12}{'memory':>12}")
  for method in features.METHODS:
    cost = features.cost(method, n_rows, n_columns)
    rows.append({"method": method, "rows": n_rows, "columns": n_columns, **cost._asdict()})
    print(
      f"{method:20}{cost.fit_seconds:10.2f} s{cost.again_seconds:10.2f} s"
      f"{cost.transform_seconds:10.2f} s{cost.megabytes:9.0f} MB",
      flush=True,
    )
  storage.write_text(out, json.dumps(rows, indent=1) + "\n")
  print(f"written to {out}")
  return 0


def _application(name: str, m: Machine, record: Record) -> float:
  """One application alone and with its gradient; returns the seconds of the latter."""
  case = CASES[name]
  arguments = case.arguments()
  forward, gradient = timed(case.apply, *arguments), timed(case.gradient, *arguments)
  need, gradient_need = needs(case.apply, *arguments), needs(case.gradient, *arguments)
  limit, gradient_limit = m.limit(need), m.limit(gradient_need)
  record("arithmetic", name, need.operations / 1e9, "GFLOP")
  record("bytes", name, need.bytes / 1e6, "MB")
  record("arithmetic_alone", name, 1e3 * need.operations / m.operations_per_second, "ms")
  record("bytes_as_copy", name, 1e3 * need.bytes / m.bytes_per_second, "ms")
  record("forward", name, 1e3 * forward.seconds, "ms", 1e3 * limit)
  record(
    "forward_matmuls", name, forward.seconds / m.matmul_seconds, "1024^3", limit / m.matmul_seconds
  )
  record("forward_of_limit", name, limit / forward.seconds, "share", 1.0)
  record("gradient", name, 1e3 * gradient.seconds, "ms", 1e3 * gradient_limit)
  record(
    "gradient_over_forward",
    name,
    gradient.seconds / forward.seconds,
    "ratio",
    gradient_limit / limit,
  )
  record("gradient_of_limit", name, gradient_limit / gradient.seconds, "share", 1.0)
  record("compile_seconds", name, gradient.compile_seconds, "s")
  record("peak_megabytes", name, gradient.megabytes, "MB")
  return gradient.seconds


def _truncation(name: str, n_tasks: int, record: Record) -> None:
  """A truncation of 10 steps through the library's TruncatedGrad, as `train` runs it."""
  seconds = fastest(CASES[name].estimate(n_tasks, 10))  # Its gradient comes as numpy's arrays.
  size = f"{name}*{n_tasks}"
  record("truncation", size, 1e3 * seconds, "ms")
  record("inner_steps_per_second", size, 10 * n_tasks / seconds, "1/s")


def _read(path: pathlib.Path) -> dict[tuple[str, str], float]:
  """Earlier results by (name, size); none if there is no file."""
  if not path.is_file():
    return {}
  try:
    return {(row["name"], row["size"]): row["value"] for row in json.loads(path.read_text())}
  except (ValueError, KeyError, TypeError) as error:
    raise UnsupRuleError(
      f"{path} is not a result of bench ({error}); give another --against"
    ) from error
