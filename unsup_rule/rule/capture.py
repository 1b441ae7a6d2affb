"""Recording of intermediate values, to compare with recorded traces; free when nobody records."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

Tape = dict[str, jax.Array]
_tape: contextvars.ContextVar[tuple[Tape, str] | None] = contextvars.ContextVar(
  "tape", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[Tape]:
  """Collects every `record`ed value under its scoped name; works inside a jitted function too.

  While a tape runs, layers are unrolled in place of being scanned, so that each can be seen.
  """
  tape: Tape = {}
  token = _tape.set((tape, ""))
  try:
    yield tape
  finally:
    _tape.reset(token)


def is_recording() -> bool:
  """Whether a tape is running."""
  return _tape.get() is not None


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
  """Prefixes the names recorded inside with `name/`."""
  state = _tape.get()
  if state is None:
    yield
    return
  token = _tape.set((state[0], f"{state[1]}{name}/"))
  try:
    yield
  finally:
    _tape.reset(token)


def record(name: str, value: Callable[[], jax.Array]) -> None:
  """Records `value()` if a tape is running; otherwise it is not even computed."""
  state = _tape.get()
  if state is not None:
    state[0][state[1] + name] = value()
