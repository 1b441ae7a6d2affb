"""The file that a meta-trained rule is shipped in: a container, see `storage.Container`.

Arrays are named "module/leaf" as in theta; the values beside them are

  sizes       as `Sizes`
  dynamics    the `InnerSchedule`; format 1 calls it step_size and has its first three fields
  use         {"steps": .., "batch_size": ..}, what the rule is at its best with
  provenance  where it comes from: gin text, commit, seed, data sets, its cost, what was measured
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from unsup_rule import storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.theta import Sizes, Theta, abstract, nested, sizes_of

FORMAT = 2
_KIND = "rule"
_SCHEDULE = {1: "step_size", 2: "dynamics"}  # its name in each format


Arrays = Mapping[str, Mapping[str, ArrayLike]]  # by module and leaf


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
    schedule: how its changes are applied.
    use: how it is best applied.
    provenance: plain values on where it comes from; `gin` is the text of its config.gin.
  """

  theta: Theta
  schedule: InnerSchedule
  use: Use
  provenance: dict[str, Any]

  @property
  def sizes(self) -> Sizes:
    """The sizes of theta."""
    return sizes_of(self.theta)

  def write(self, path: str | os.PathLike) -> None:
    """Writes the file atomically; the same content makes the same bytes."""
    values = {
      "sizes": dataclasses.asdict(self.sizes),
      "dynamics": dataclasses.asdict(self.schedule),
      "use": dataclasses.asdict(self.use),
      "provenance": self.provenance,
    }
    storage.Container(_KIND, FORMAT, _flat(self.theta), values).write(path)

  @classmethod
  def read(cls, path: str | os.PathLike) -> "Archive":
    """Reads a file, and checks all of it.

    Raises:
      UnsupRuleError: it is missing, damaged, of another format, or not a rule.
    """
    try:
      found = storage.Container.read(path, _KIND, tuple(_SCHEDULE))
    except OSError as error:
      raise UnsupRuleError(
        f"cannot read {path}: {error.strerror}; give the path of a .npz file of a rule"
      ) from error
    except storage.DamagedError as error:
      raise UnsupRuleError(
        f"{path} is damaged or holds no rule; copy it again, or make it with unsup-rule export "
        f"({error.reason})"
      ) from error
    try:
      theta: Any = nested(found.arrays)  # Of numpy, which does as well as of jax.
      check_fits(theta, Sizes(**found.values["sizes"]), "theta")
      schedule = InnerSchedule(**found.values[_SCHEDULE[found.format]])
      use, provenance = Use(**found.values["use"]), dict(found.values["provenance"])
      return cls(theta, schedule, use, provenance)
    except UnsupRuleError as error:
      raise UnsupRuleError(f"{path}: {error}") from error
    except storage.DAMAGE as error:
      raise UnsupRuleError(f"{path} is damaged ({error!r}); copy it again") from error


def check_fits(theta: Arrays, sizes: Sizes, what: str) -> None:
  """Refuses a theta that is no whole rule of these sizes, or holds values that are not finite.

  Args:
    theta: arrays by module and leaf.
    sizes: what they must fit.
    what: names theta in messages, such as "theta in runs/a".

  Raises:
    UnsupRuleError: names the first array that is missing, differs, or is too many.
  """
  arrays = _flat(theta)
  storage.check_fit(arrays, abstract(sizes), what, "it is of another program, or of other sizes")
  if not all(np.isfinite(array).all() for array in arrays.values()):
    raise UnsupRuleError(f"{what} holds values that are not finite; use another rule")


def digest(theta: Arrays) -> str:
  """SHA-256 in hexadecimal, of names, shapes, types and values, in order of names."""
  return storage.digest(_flat(theta))


def _flat(theta: Arrays) -> dict[str, np.ndarray]:
  flat = {
    f"{module}/{leaf}": np.asarray(value)
    for module, leaves in theta.items()
    for leaf, value in leaves.items()
  }
  return dict(sorted(flat.items()))
