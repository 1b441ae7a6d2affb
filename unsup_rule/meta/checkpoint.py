"""What a run leaves in its folder: `params` for the library, `checkpoint_<step>` for resuming.

`params` is the library's `ParameterCheckpoint` in flax's msgpack form; with `config.gin` beside it
the library's `opt_from_checkpoint` loads it. `checkpoint_<step>` is a container, see
`storage.Container`. Nothing is pickled: a checkpoint from strangers can be wrong but runs no code.
"""

import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import flax.serialization
import msgpack
import numpy as np
from learned_optimization import checkpoints as _register_haiku_trees  # noqa: F401
from learned_optimization.learned_optimizers.base import MetaParams
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule import locations, reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import trees
from unsup_rule.weights import run_folder

State = dict[str, Any]  # nested, of arrays, numbers and strings

_KIND, _FORMAT = "checkpoint", 2
_EARLIER = b"unsup-rule state "  # How files of format 1 began.
_ARRAY = "$array"  # The one key of what stands for an array among the plain values.
_NAME = re.compile(r"checkpoint_(\d+)")
_KEPT = 2


def save_params(folder: str | pathlib.Path, theta: MetaParams, step: int) -> None:
  """Writes theta to `folder/params`, atomically, in the library's format."""
  # A flax dataclass, opaque to type checkers.
  parameters = gradient_learner.ParameterCheckpoint(params=theta, gen_id="", step=step)  # pyright: ignore[reportCallIssue]
  storage.write_bytes(pathlib.Path(folder) / "params", flax.serialization.to_bytes(parameters))


def load_theta(path: str | pathlib.Path, like_theta: MetaParams) -> MetaParams:
  """Loads theta from a `params` file, or from the one in a folder.

  Args:
    path: the file or the folder.
    like_theta: a theta of the wanted structure, shapes and dtypes.

  Returns:
    The tree, with the structure of `like_theta`.

  Raises:
    UnsupRuleError: no such file, a damaged one, a tree that does not fit (names the first leaf
      that differs), or values that are not finite.
  """
  path = locations.expanded(path)
  if path.is_dir():
    path = path / "params"
  try:
    with reading.opened(path) as stream:
      content = stream.read()
  except OSError as error:
    raise UnsupRuleError(
      f"cannot read theta from {path}: {error.strerror}; give a params file or "
      "a folder that holds one"
    ) from error
  run_folder.check_params(path.parent, content)
  try:
    found = flax.serialization.msgpack_restore(content)["params"]
    # flax keeps trees as dictionaries of strings, and that is what the leaves are named after.
    leaves = trees.to_leaves(found)
  except (*storage.DAMAGE, msgpack.exceptions.UnpackException) as error:
    raise UnsupRuleError(
      f"{path} is damaged or is no params file of learned_optimization; restore "
      "it from a copy, or train again"
    ) from error
  like = flax.serialization.to_state_dict(like_theta)
  theta = trees.from_leaves(leaves, like, f"theta in {path}")
  if not trees.all_finite(theta):
    raise UnsupRuleError(f"theta in {path} holds values that are not finite; use another one")
  return flax.serialization.from_state_dict(like_theta, theta)


def save_state(
  folder: str | pathlib.Path, step: int, state: Mapping[str, object], kept: int = _KEPT
) -> pathlib.Path:
  """Writes `folder/checkpoint_<step>` atomically, keeps the one before it, and returns its path.

  Args:
    folder: the run's folder.
    step: outer step, which names the file.
    state: nested dictionaries with string keys, of numpy arrays, numbers and strings.
    kept: how many to keep, with this one.
  """
  folder = pathlib.Path(folder)
  path = folder / f"checkpoint_{step}"
  arrays: dict[str, np.ndarray] = {}
  storage.Container(_KIND, _FORMAT, arrays, {"state": _without_arrays(state, (), arrays)}).write(
    path
  )
  numbers = sorted(_numbered(folder), reverse=True)
  # Later ones are damaged: this run has passed over them.
  later = [number for number in numbers if number > step]
  for number in later:
    (folder / f"checkpoint_{number}").replace(folder / f"damaged_checkpoint_{number}")
  for number in numbers[len(later) + kept :]:
    (folder / f"checkpoint_{number}").unlink(missing_ok=True)
  return path


def load_state(folder: str | pathlib.Path) -> State | None:
  """Reads the newest checkpoint that is whole; None where the folder has none.

  Warns of each newer one that is damaged.

  Raises:
    UnsupRuleError: there are checkpoints but all are damaged, or one cannot be read or is of a
      later format.
  """
  folder = pathlib.Path(folder)
  numbers = sorted(_numbered(folder), reverse=True)
  for number in numbers:
    path = folder / f"checkpoint_{number}"
    try:
      return _read(path)
    except storage.DamagedError as error:
      warnings.warn(f"{path} is damaged ({error.reason}); trying the one before it", stacklevel=2)
    except OSError as error:
      # It may be whole: going on from an earlier one would throw it away.
      raise UnsupRuleError(
        f"cannot read {path}: {error.strerror}; make it readable, or move it away"
      ) from error
  if numbers:
    raise UnsupRuleError(
      f"every checkpoint in {folder} is damaged; restore one from a copy, or "
      "start anew in another --train_log_dir"
    )
  return None


def load_resumable(folder: pathlib.Path) -> State | None:
  """`load_state`, for a run that is about to write into the folder.

  Raises:
    UnsupRuleError: as `load_state`, and where there is a theta that nothing could go on from.
  """
  state = load_state(folder)
  if state is None and (folder / "params").exists():
    raise UnsupRuleError(
      f"{folder} holds params but no checkpoint to go on from; choose another "
      "--train_log_dir so that they are not overwritten"
    )
  return state


def read_state(path: str | pathlib.Path) -> State:
  """Reads one checkpoint.

  Raises:
    UnsupRuleError: it is missing, damaged, or of a later format.
  """
  try:
    return _read(pathlib.Path(path))
  except OSError as error:
    raise UnsupRuleError(f"cannot read {path}: {error.strerror}; restore it from a copy") from error


def _read(path: pathlib.Path) -> State:
  with reading.opened(path) as stream:
    if stream.read(len(_EARLIER)) == _EARLIER:
      raise UnsupRuleError(
        f"{path} has format 1, made by an earlier version; go on with that version, or start anew "
        "in another --train_log_dir"
      )
  found = storage.Container.read(path, _KIND, [_FORMAT])
  try:
    return _with_arrays(found.values["state"], found.arrays)
  except storage.DAMAGE as error:
    raise storage.DamagedError(path, repr(error)) from error


def _without_arrays(value: object, place: tuple[str, ...], arrays: dict[str, np.ndarray]) -> object:
  """Plain values, with each array moved to `arrays` and its name in its place."""
  if isinstance(value, Mapping):
    return {name: _without_arrays(item, (*place, name), arrays) for name, item in value.items()}
  if not isinstance(value, (np.ndarray, np.generic)):
    return value
  name = f"{len(arrays)}/{'/'.join(place)}"  # The number keeps names apart.
  arrays[name] = np.asarray(value)
  return {_ARRAY: name}


def _with_arrays(value: object, arrays: Mapping[str, np.ndarray]) -> Any:
  """What `_without_arrays` took apart."""
  if not isinstance(value, Mapping):
    return value
  if value.keys() == {_ARRAY}:
    return arrays[value[_ARRAY]]
  return {name: _with_arrays(item, arrays) for name, item in value.items()}


def _numbered(folder: pathlib.Path) -> list[int]:
  return [
    int(match[1]) for path in folder.glob("checkpoint_*") if (match := _NAME.fullmatch(path.name))
  ]
