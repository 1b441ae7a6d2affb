"""What gin has bound, once its files are read: values, what they are made of, and their types."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import gin
from gin import config as gin_config

from unsup_rule import hints
from unsup_rule.errors import UnsupRuleError

# The registry and the bindings have no public interface; a type checker knows them by halves.
_GIN: Any = gin_config


def everything() -> dict[tuple[str, str], dict[str, object]]:
  """Gin's configuration, with macros replaced by what they stand for."""
  return {
    key: {name: _expanded(value) for name, value in parameters.items()}
    for key, parameters in _GIN._CONFIG.items()
    if key[1] != "gin.macro"
  }


def bound(name: str, default: object = None) -> Any:
  """Returns what `configurable.parameter` is bound to outside of scopes, or `default`."""
  try:
    return _expanded(gin.query_parameter(name))
  except ValueError:
    return default


def made_of(value: object) -> set[str]:
  """Names of what a value refers to, by way of others too: configurables, and macros as %name."""
  found: dict[str, str] = {}
  todo: list[object] = [value]
  while todo:
    for one in _GIN._iterate_flattened_values(todo.pop()):
      if isinstance(one, _GIN.ConfigurableReference) and one.scoped_selector not in found:
        macro = one.configurable.selector == "gin.macro"
        name = f"%{'/'.join(one.scopes)}" if macro else one.selector.rpartition(".")[2]
        found[one.scoped_selector] = name
        todo += gin.get_bindings(one.scoped_selector, resolve_references=False).values()
  return set(found.values())


def check_types() -> None:
  """Refuses a value of another type than its parameter's; those without annotation take anything.

  Raises:
    UnsupRuleError: names the parameter, what is bound to it and what it takes.
  """
  for (scope, selector), parameters in everything().items():
    takes = _takes(_GIN._REGISTRY[selector].wrapped)
    for name, value in parameters.items():
      if name in takes and not _fits(value, takes[name]):
        place = "/".join(filter(None, (scope, selector.rpartition(".")[2])))
        raise hints.misfit(f"gin: {place}.{name}", value, takes[name])


def nearest(name: str, known: Iterable[str]) -> str:
  """The end of a message about an unknown name: the nearest one that is known, if any is near."""
  by_lower = {candidate.lower(): candidate for candidate in known}
  found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
  return f"; did you mean '{by_lower[found[0]]}'?" if found else ""


def _expanded(value: Any, inside: tuple[str, ...] = ()) -> Any:
  """`value` with macros replaced by what they stand for, and all other references as they are."""
  if isinstance(value, _GIN.ConfigurableReference):
    if value.configurable.selector != "gin.macro":
      return value
    name = "/".join(value.scopes)
    macros = {
      scope: parameters["value"]
      for (scope, selector), parameters in _GIN._CONFIG.items()
      if selector == "gin.macro"
    }
    if name not in macros or name in inside:
      problem = "refers to itself" if name in inside else f"has no value{nearest(name, macros)}"
      raise UnsupRuleError(f"gin: macro %{name} {problem}")
    return _expanded(macros[name], (*inside, name))
  if isinstance(value, dict):
    return {_expanded(k, inside): _expanded(v, inside) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(_expanded(item, inside) for item in value)
  return value


def _takes(configurable: Callable) -> dict[str, object]:
  """The annotations of a configurable's parameters; a default of None is allowed unsaid."""
  function = configurable.__init__ if inspect.isclass(configurable) else configurable
  try:
    annotations = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    return {
      name: hint | None if parameters[name].default is None else hint
      for name, hint in annotations.items()
      if name in parameters
    }
  except (NameError, TypeError, ValueError):  # Of type checkers alone; of C; no types at all.
    return {}


def _fits(value: object, hint: object) -> bool:
  if isinstance(value, _GIN.ConfigurableReference):
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return any(_may_be(value, one) for one in (typing.get_args(hint) if union else (hint,)))
  # What references inside of it stand for is not known before they are made.
  inside = _GIN._iterate_flattened_values(value)
  unknown = any(isinstance(one, _GIN.ConfigurableReference) for one in inside)
  return unknown or hints.fits(value, hint)


def _may_be(reference: gin_config.ConfigurableReference, hint: object) -> bool:
  """Whether `@name`, or what `@name()` returns, may be of this type; a function says no more."""
  kind = typing.get_origin(hint) or hint
  if not inspect.isclass(kind):  # Such as type variables.
    return True
  if not reference.evaluate:
    return kind in (object, type, Callable)
  made = reference.configurable.wrapped
  return not inspect.isclass(made) or issubclass(made, kind)
