"""Values from outside, of gin files above all, against type annotations."""

import inspect
import re
import typing
from collections.abc import Sequence

import typeguard

from unsup_rule.errors import UnsupRuleError

_ALL_ITEMS = typeguard.CollectionCheckStrategy.ALL_ITEMS


def fits(value: object, hint: object) -> bool:
  """Whether a value, with all that is in it, is of a type; text is no sequence of texts."""
  if isinstance(value, str) and typing.get_origin(hint) is Sequence:
    return False
  try:
    typeguard.check_type(value, hint, collection_check_strategy=_ALL_ITEMS)
  except typeguard.TypeCheckError:
    return False
  return True


def misfit(what: str, value: object, hint: object) -> UnsupRuleError:
  """The error for a value that does not fit, named `what`."""
  return UnsupRuleError(f"{what} is {value!r}; it takes {told(hint)}")


def told(hint: object) -> str:
  """A type as in an annotation, without modules."""
  name = hint.__name__ if inspect.isclass(hint) else str(hint)
  return re.sub(r"[\w.]+\.(\w+)", r"\1", name)
