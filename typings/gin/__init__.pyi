# What pyright cannot see in gin-config, which has no types: its decorator returns what it gets.
from collections.abc import Callable
from typing import Any, TypeVar, overload

from gin import config as config

_T = TypeVar("_T", bound=Callable[..., Any])

REQUIRED: Any

@overload
def configurable(name_or_fn: _T) -> _T: ...
@overload
def configurable(
  name_or_fn: str | None = None,
  module: str | None = None,
  allowlist: list[str] | None = None,
  denylist: list[str] | None = None,
) -> Callable[[_T], _T]: ...
def __getattr__(name: str) -> Any: ...
