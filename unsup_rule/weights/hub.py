"""Rules on the Hugging Face Hub: `hf://owner/name`, a repository of `rule.npz` and its card."""

import contextlib
import importlib
import pathlib
import re
import tempfile
import types
from collections.abc import Iterator

from unsup_rule.errors import UnsupRuleError
from unsup_rule.weights.archive import Archive

PREFIX = "hf://"
CARD = "README.md"
_HUB = "huggingface_hub"  # Of no extra; imported when a rule is asked of it.
_RULE = "rule.npz"


def folder(address: str) -> pathlib.Path:
  """The folder of the hub's cache with the newest files, downloaded where they are not there.

  Raises:
    UnsupRuleError: huggingface_hub is not installed, or has no such repository or no network.
  """
  name = repository(address)
  with _reached(f"get {address}; check its name and the network") as hub:
    return pathlib.Path(hub.snapshot_download(name, allow_patterns=[_RULE, CARD]))


def push(address: str, rule: Archive, card: str) -> str:
  """Puts a rule and its card into a repository, which is made where it is not there.

  Returns:
    Where people see it.

  Raises:
    UnsupRuleError: huggingface_hub is not installed, nobody is logged in, the repository may not be
      written, or there is no network.
  """
  name = repository(address)
  with (
    tempfile.TemporaryDirectory() as temporary,
    _reached(f"push to {address}; check its name, `hf auth login` and the network") as hub,
  ):
    rule.write(pathlib.Path(temporary) / _RULE)
    (pathlib.Path(temporary) / CARD).write_text(card, encoding="utf-8")
    hub.create_repo(name, exist_ok=True)
    hub.upload_folder(repo_id=name, folder_path=temporary, commit_message="A rule of unsup-rule")
  return f"https://huggingface.co/{name}"


def repository(address: str) -> str:
  """The "owner/name" of an address.

  Raises:
    UnsupRuleError: it is none.
  """
  name = address.removeprefix(PREFIX)
  if address == name or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
    raise UnsupRuleError(f"{address} names no repository of the hub; give hf://owner/name")
  return name


@contextlib.contextmanager
def _reached(failed: str) -> Iterator[types.ModuleType]:
  """The module of the hub; what goes wrong with it within is one line, "cannot <failed>"."""
  try:
    hub, errors = importlib.import_module(_HUB), importlib.import_module(f"{_HUB}.errors")
  except ImportError as error:
    raise UnsupRuleError(
      f"the Hugging Face Hub needs {_HUB}, which is not installed; run pip install {_HUB}"
    ) from error
  # Its bases are what the client of HTTP raises where there is no answer, and OSError.
  known = errors.HfHubHTTPError.__bases__
  try:
    yield hub
  except (ValueError, *known) as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise UnsupRuleError(f"cannot {failed} ({reason})") from error
