"""Rules on the Hugging Face Hub: `hf://owner/name`, a repository of `rule.npz` and its card."""

import importlib
import pathlib

from unsup_rule.errors import UnsupRuleError

PREFIX = "hf://"
CARD = "README.md"
_HUB = "huggingface_hub"  # Of no extra; imported when a rule is asked of it.
_FILES = ("rule.npz", CARD)


def folder(address: str) -> pathlib.Path:
  """The folder of the hub's cache with the newest files, downloaded where they are not there.

  Raises:
    UnsupRuleError: huggingface_hub is not installed, or has no such repository or no network.
  """
  repository = address.removeprefix(PREFIX)
  if repository.count("/") != 1 or not all(repository.split("/")):
    raise UnsupRuleError(f"{address} names no repository of the hub; give hf://owner/name")
  try:
    hub = importlib.import_module(_HUB)
  except ImportError as error:
    raise UnsupRuleError(
      f"{address} needs {_HUB}, which is not installed; run pip install {_HUB}"
    ) from error
  try:
    return pathlib.Path(hub.snapshot_download(repository, allow_patterns=list(_FILES)))
  except (OSError, ValueError) as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise UnsupRuleError(
      f"cannot get {address}; check its name and the network ({reason})"
    ) from error
