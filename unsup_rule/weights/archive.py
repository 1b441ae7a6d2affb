"""The `.npz` file that a meta-trained rule is shipped in: numpy's own format, nothing pickled.

Arrays are named "module/leaf" as in theta; beside them `header` holds UTF-8 JSON:

  format      2; a reader knows 1 as well, and refuses any other
  arrays      {name: {"shape": [..], "dtype": ".."}}
  sha256      of all arrays, see `digest`
  sizes       as `Sizes`
  dynamics    as `Dynamics`; format 1 calls it step_size and has its first three fields
  use         {"steps": .., "batch_size": ..}, what the rule is at its best with
  provenance  where it comes from: gin text, commit, seed, data sets, core-hours, what was measured
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.schedule import Dynamics
from unsup_rule.rule.theta import Sizes, Theta, init_theta, sizes_of

FORMAT = 2
_HEADER = "header"
_DYNAMICS = {1: "step_size", 2: "dynamics"}  # its name in each format
_DAMAGE = (
  OSError,
  ValueError,
  KeyError,
  TypeError,
  AttributeError,
  IndexError,
  EOFError,
  NotImplementedError,
  zipfile.BadZipFile,
  zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Use:
  """How a rule is best applied.

  Attributes:
    steps: applications.
    batch_size: examples of each.
  """

  steps: int = 1000
  batch_size: int = 128

  def __post_init__(self):
    for name, least in (("steps", 0), ("batch_size", 2)):
      if getattr(self, name) < least:
        raise UnsupRuleError(f"{name} is {getattr(self, name)}; give at least {least}")


@dataclasses.dataclass(frozen=True, eq=False)
class Archive:
  """A meta-trained rule.

  Attributes:
    theta: its parameters, {module: {leaf: float32 array}}.
    dynamics: how its changes are applied.
    use: how it is best applied.
    provenance: plain values on where it comes from; `gin` is the text of its config.gin.
  """

  theta: Theta
  dynamics: Dynamics
  use: Use
  provenance: dict[str, Any]

  @property
  def sizes(self) -> Sizes:
    """The sizes of theta."""
    return sizes_of(self.theta)

  def write(self, path: str | os.PathLike) -> None:
    """Writes the file atomically; the same content makes the same bytes."""
    arrays = _flat(self.theta)
    header = {
      "format": FORMAT,
      "arrays": {n: {"shape": a.shape, "dtype": str(a.dtype)} for n, a in arrays.items()},
      "sha256": digest(self.theta),
      "sizes": dataclasses.asdict(self.sizes),
      "dynamics": dataclasses.asdict(self.dynamics),
      "use": dataclasses.asdict(self.use),
      "provenance": self.provenance,
    }
    text = json.dumps(header, indent=1).encode()
    named: dict[str, Any] = {_HEADER: np.frombuffer(text, np.uint8), **arrays}
    stream = io.BytesIO()
    np.savez(stream, **named)
    storage.write_bytes(path, stream.getvalue())

  @classmethod
  def read(cls, path: str | os.PathLike) -> "Archive":
    """Reads a file, and checks all of it.

    Raises:
      UnsupRuleError: it is missing, damaged, of another format, or not a rule.
    """
    path = pathlib.Path(path)
    try:
      content = path.read_bytes()
    except OSError as error:
      raise UnsupRuleError(
        f"cannot read {path}: {error.strerror}; give the path of a .npz file of a rule"
      ) from error
    try:
      with np.load(io.BytesIO(content), allow_pickle=False) as found:
        header = json.loads(bytes(found[_HEADER]))
        version = header["format"]
        arrays = {n: found[n] for n in found.files if n != _HEADER} if version in _DYNAMICS else {}
    except _DAMAGE as error:
      raise UnsupRuleError(
        f"{path} is damaged or holds no rule; copy it again, or make it with unsup-rule export"
      ) from error
    if version not in _DYNAMICS:
      raise UnsupRuleError(
        f"{path} has format {version!r}, this version of unsup-rule reads 1 and 2; install the "
        "version that wrote it, or export the rule again"
      )
    try:
      theta = _nested(arrays)
      _check(theta, header)
      dynamics = Dynamics(**header[_DYNAMICS[version]])
      return cls(theta, dynamics, Use(**header["use"]), dict(header["provenance"]))
    except UnsupRuleError as error:
      raise UnsupRuleError(f"{path}: {error}") from error
    except _DAMAGE as error:
      raise UnsupRuleError(f"{path} is damaged ({error!r}); copy it again") from error


def digest(theta: Mapping[str, Mapping[str, Any]]) -> str:
  """SHA-256 in hexadecimal, of names, shapes, types and values, in order of names."""
  total = hashlib.sha256()
  for name, array in _flat(theta).items():
    total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    total.update(np.ascontiguousarray(array).tobytes())
  return total.hexdigest()


def _flat(theta: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
  flat = {
    f"{module}/{leaf}": np.asarray(value)
    for module, leaves in theta.items()
    for leaf, value in leaves.items()
  }
  return dict(sorted(flat.items()))


def _nested(arrays: Mapping[str, np.ndarray]) -> Theta:
  theta: dict[str, dict[str, Any]] = {}
  for name, array in arrays.items():
    module, _, leaf = name.rpartition("/")
    theta.setdefault(module, {})[leaf] = array
  return theta


def _check(theta: Theta, header: Mapping[str, Any]) -> None:
  """Raises unless theta is what the header says, and a whole rule."""
  said = {name: (tuple(a["shape"]), a["dtype"]) for name, a in header["arrays"].items()}
  flat = _flat(theta)
  for name in sorted({*said, *flat}):
    got = (flat[name].shape, str(flat[name].dtype)) if name in flat else "missing"
    if got != said.get(name):
      raise UnsupRuleError(
        f"array {name} is {got}, the header says {said.get(name, 'nothing')}; copy the file again"
      )
  if digest(theta) != header["sha256"]:
    raise UnsupRuleError("the arrays do not match their checksum; copy the file again")
  sizes = Sizes(**header["sizes"])
  expected = jax.eval_shape(lambda: init_theta(sizes, jax.random.PRNGKey(0)))
  wanted = {
    f"{module}/{leaf}": (value.shape, str(value.dtype))
    for module, leaves in expected.items()
    for leaf, value in leaves.items()
  }
  for name in sorted({*wanted, *said}):
    if said.get(name) != wanted.get(name):
      raise UnsupRuleError(
        f"array {name} is {said.get(name, 'missing')}, a rule of these sizes has "
        f"{wanted.get(name, 'none')}; the file is of another program"
      )
  if not all(np.isfinite(array).all() for array in flat.values()):
    raise UnsupRuleError("theta holds values that are not finite; use another rule")
