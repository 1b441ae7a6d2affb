"""Timing of compiled programs, and of the machine they run on."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unsup_rule.machine.counting import Need


class Timing(NamedTuple):
  """Of one program.

  Attributes:
    seconds: the fastest of several runs, since others share the machine.
    compile_seconds: of tracing and compilation.
    megabytes: arguments, results and temporaries together.
  """

  seconds: float
  compile_seconds: float
  megabytes: float


def timed(function: Callable, *arguments: Any, budget: float = 3.0) -> Timing:
  """Compiles and runs for about `budget` seconds, at least three times."""
  began = time.perf_counter()
  program = jax.jit(function).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - began
  memory: Any = program.memory_analysis()
  used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
  seconds = fastest(lambda: jax.block_until_ready(program(*arguments)), budget)
  return Timing(seconds, compile_seconds, used / 1e6)


def fastest(run: Callable[[], Any], budget: float = 3.0) -> float:
  """Seconds of the fastest run."""
  run()
  times = []
  while len(times) < 3 or (sum(times) < budget and len(times) < 50):
    began = time.perf_counter()
    run()
    times.append(time.perf_counter() - began)
  return min(times)


class Machine(NamedTuple):
  """What the device reaches in float32.

  Attributes:
    matmul_seconds: of one 1024 x 1024 x 1024 product.
    operations_per_second: in it.
    bytes_per_second: read and written by a copy of 256 MB.
  """

  matmul_seconds: float
  operations_per_second: float
  bytes_per_second: float

  def limit(self, need: Need) -> float:
    """Seconds that the arithmetic or the bytes take at least, whichever take longer."""
    return max(need.operations / self.operations_per_second, need.bytes / self.bytes_per_second)


def machine() -> Machine:
  """Measures the device at hand."""
  a = jnp.ones((1024, 1024))
  product = jax.jit(lambda a: a @ a).lower(a).compile()
  matmul = fastest(lambda: product(a).block_until_ready(), 1.0)
  big = jnp.ones((32 * 2**20,))
  copy = jax.jit(lambda x: x + 1).lower(big).compile()
  copying = fastest(lambda: copy(big).block_until_ready(), 1.0)
  return Machine(matmul, 2 * 1024**3 / matmul, 2 * big.nbytes / copying)
