"""Capture of intermediate values, to compare with recordings; free when nobody captures."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

Captured = dict[str, jax.Array]
_state: contextvars.ContextVar[tuple[Captured, str] | None] = contextvars.ContextVar(
  "captured", default=None
)


@contextlib.contextmanager
def capturing() -> Iterator[Captured]:
  """Collects every `capture`d value under its scoped name; works inside a jitted function too.

  Meanwhile layers are unrolled in place of being scanned, so that each can be seen.
  """
  captured: Captured = {}
  token = _state.set((captured, ""))
  try:
    yield captured
  finally:
    _state.reset(token)


def is_capturing() -> bool:
  """Whether somebody captures."""
  return _state.get() is not None


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
  """Prefixes the names captured inside with `name/`."""
  state = _state.get()
  if state is None:
    yield
    return
  token = _state.set((state[0], f"{state[1]}{name}/"))
  try:
    yield
  finally:
    _state.reset(token)


def capture(name: str, value: Callable[[], jax.Array]) -> None:
  """Keeps `value()` if somebody captures; otherwise it is not even computed."""
  state = _state.get()
  if state is not None:
    state[0][state[1] + name] = value()
