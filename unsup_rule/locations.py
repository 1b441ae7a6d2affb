"""Where this user's files go, and folders that nobody else may change."""

import os
import pathlib
import stat
import tempfile

from unsup_rule.errors import UnsupRuleError


def expanded(path: str | os.PathLike) -> pathlib.Path:
  """A path that a person gave, with a leading tilde read as the home folder.

  Raises:
    UnsupRuleError: there is no home folder.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise UnsupRuleError(
      f"{path}: this user has no home folder; set HOME, or give the whole path"
    ) from error


def cache_folder() -> pathlib.Path:
  """$UNSUP_RULE_CACHE, or ~/.cache/unsup_rule, or where there is no home a temporary folder."""
  if folder := os.environ.get("UNSUP_RULE_CACHE"):
    return expanded(folder)
  try:
    return expanded("~/.cache/unsup_rule")
  except UnsupRuleError:
    return pathlib.Path(tempfile.gettempdir()) / f"unsup_rule-{user_number()}"


def user_number() -> int:
  """The user's number, 0 where users have none."""
  return os.getuid() if hasattr(os, "getuid") else 0


def private_folder(path: str | os.PathLike) -> pathlib.Path:
  """Makes a folder that its owner alone may use, and returns its path.

  Raises:
    UnsupRuleError: it cannot be made, belongs to somebody else, others could write into it until
      now, or somebody else could put another in its place.
  """
  folder = pathlib.Path(path)
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != user_number() or folder.is_symlink():
      raise UnsupRuleError(f"{folder} belongs to another user; remove it or choose another folder")
    if os.name == "posix" and folder.stat().st_mode & 0o022:
      raise UnsupRuleError(f"others may write into {folder}; remove it or choose another folder")
    for above in (*folder.absolute().parents, *folder.resolve().parents):
      if not _is_safe(above):
        raise UnsupRuleError(
          f"{above} belongs to another user, or others may write there; choose another folder than "
          f"{folder}"
        )
    folder.chmod(0o700)
  except OSError as error:
    raise UnsupRuleError(
      f"cannot make {folder}: {error.strerror or error}; choose another folder"
    ) from error
  return folder


def _is_safe(folder: pathlib.Path) -> bool:
  """Whether nobody but its owner's user and the system can exchange what lies in a folder."""
  if os.name != "posix":
    return True
  owners = {folder.lstat().st_uid, folder.stat().st_uid}
  mode = folder.stat().st_mode
  shared = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
  return owners <= {0, user_number()} and not shared
