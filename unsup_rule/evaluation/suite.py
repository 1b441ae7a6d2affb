"""What a gin file asks for: grids of settings and methods, as a list of cells."""

import dataclasses
import hashlib
import itertools
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import gin
from learned_optimization.optimizers.base import Optimizer

from unsup_rule import hints
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation.methods import BASELINES, RULES, Method
from unsup_rule.evaluation.methods.optimizers import LibraryOptimizer
from unsup_rule.evaluation.methods.rule import Rule
from unsup_rule.evaluation.setting import Data, Setting
from unsup_rule.evaluation.store import Row
from unsup_rule.tasks.sources import SpecSettings

# Lists of a grid: name in gin -> the attribute of a setting that takes each value in turn.
_AXES = {
  "data": "data",
  "widths": "width",
  "hidden_layers": "hidden_layers",
  "nonlinearities": "nonlinearity",
  "permute": "permute",
  "batch_sizes": "batch_size",
}
_PROTOCOL = 4  # raise it when rows of results get other columns or numbers
_SCALARS = ("n_outputs", "steps", "seeds", "draws", "examples_per_class", "seed", "layers")


@dataclasses.dataclass(frozen=True)
class Cell:
  """One method in one setting.

  Attributes:
    name: of the method: a key of `RULES` or `BASELINES`, or "optimizer NAME".
    method: what is measured.
    setting: where.
    identity: what tells this cell's numbers from all others, as plain values.
  """

  name: str
  method: Method
  setting: Setting
  identity: Row

  @property
  def key(self) -> str:
    """Digest of the identity."""
    text = json.dumps(self.identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  @property
  def cost(self) -> float:
    """Rough milliseconds of all seeds; the constant stands for compilation and probes."""
    return self.setting.seeds * (500 + self.method.cost(self.setting))

  def row(self, provenance: Row) -> Row:
    """A row of results without its numbers."""
    return {
      "key": self.key,
      "identity": self.identity,
      "method": self.name,
      "label": self.method.label,
      "about": self.method.about,
      "source": self.method.source,
      "reference": self.method.reference,
      "status": "ok",
      "reason": "",
      "ways": 0,
      "measurements": [],
      "provenance": {"theta_sha256": self.identity.get("theta", ""), **provenance},
    }

  @property
  def label(self) -> str:
    """For people: method, data, and what is not the default."""
    usual = Setting(self.setting.data)
    names = {"width": "width", "hidden_layers": "hidden layers", "batch_size": "batch"}
    parts = [self.setting.data.label, self.method.label]
    for attribute in ("width", "hidden_layers", "nonlinearity", "batch_size"):
      value = getattr(self.setting, attribute)
      if value != getattr(usual, attribute):
        parts.append(f"{names.get(attribute, '')} {value}".strip())
    return ", ".join(parts + ([] if self.setting.permute else ["not permuted"]))


@gin.configurable("evaluate", module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class Suite:
  """An evaluation: every method in every combination of the lists.

  Attributes:
    title: of the report.
    about: a sentence or two under it.
    score: whether the command makes a table and one number, see `scores`, in place of a page.
    methods: keys of `RULES` and `BASELINES`, and names of `optimizers`.
    data: data sets, each a name or a dictionary of `Data`'s attributes.
    widths, hidden_layers, nonlinearities, permute, batch_sizes: lists, see `Setting`.
    n_outputs, steps, seeds, draws, examples_per_class, seed, layers: see `Setting`.
    grids: each a dictionary of any of the attributes from `methods` to `layers` that it changes;
      the suite is the union of the grids.
    optimizers: optimizers of learned_optimization by name.
  """

  title: str = "Few-shot evaluation"
  about: str = ""
  score: bool = False
  methods: Sequence[str] = ("rule", "untrained")
  data: Sequence[SpecSettings] = ("digits",)
  widths: Sequence[int] = (128,)
  hidden_layers: Sequence[int] = (4,)
  nonlinearities: Sequence[str] = ("relu",)
  permute: Sequence[bool] = (True,)
  batch_sizes: Sequence[int] = (128,)
  n_outputs: int = 32
  steps: Sequence[int] = (0, 100)
  seeds: int = 10
  draws: int = 20
  examples_per_class: int = 10
  seed: int = 0
  layers: bool = False
  grids: Sequence[Mapping[str, Any]] = ({},)
  optimizers: Mapping[str, Optimizer] = dataclasses.field(default_factory=dict)

  def cells(self, rule: Rule | None, theta_sha256: str = "") -> list[Cell]:
    """All cells, each once, in the order of the grids; without those of the rule if it is None.

    Raises:
      UnsupRuleError: an unknown method or setting, or an embedding that does not fit the rule.
    """
    cells: dict[str, Cell] = {}
    for grid in self.grids:
      for cell in self._of_grid(grid, rule, theta_sha256):
        cells.setdefault(cell.key, cell)
    if not cells:
      raise UnsupRuleError("nothing to evaluate; name a rule with --rule, or baselines in gin")
    return list(cells.values())

  def _of_grid(self, grid: Mapping[str, Any], rule: Rule | None, theta_sha256: str):
    known = ("methods", *_AXES, *_SCALARS)
    takes = typing.get_type_hints(Suite)
    for name, value in grid.items():
      if name not in known:
        raise UnsupRuleError(f"evaluate.grids: unknown name {name!r}; use {', '.join(known)}")
      if not hints.fits(value, takes[name]):
        raise hints.misfit(f"evaluate.grids: {name}", value, takes[name])
    values = {name: grid.get(name, getattr(self, name)) for name in known}
    data = [Data.from_settings(settings) for settings in values["data"]]
    lists = [data, *(values[name] for name in list(_AXES)[1:])]
    scalars = {name: values[name] for name in _SCALARS}
    for combination in itertools.product(*lists):
      setting = Setting(**dict(zip(_AXES.values(), combination, strict=True)), **scalars)
      setting.mlp(1)  # Checks the nonlinearity.
      for name in values["methods"]:
        method = self._method(name, rule)
        if method is not None:
          yield Cell(name, method, setting, _identity(name, method, setting, theta_sha256))

  def _method(self, name: str, rule: Rule | None) -> Method | None:
    if name in RULES:
      if rule is not None and rule.sizes.output_size != self.n_outputs:
        raise UnsupRuleError(
          f"this theta was made for an embedding of {rule.sizes.output_size} units, the suite has "
          f"{self.n_outputs}; set evaluate.n_outputs = {rule.sizes.output_size}"
        )
      return rule and RULES[name](rule.theta, rule.sizes, rule.schedule, rule.trained)
    if name in self.optimizers:
      return LibraryOptimizer(name, self.optimizers[name])
    if name not in BASELINES:
      names = ", ".join([*RULES, *BASELINES, *self.optimizers])
      raise UnsupRuleError(f"evaluate.methods: unknown method {name!r}; use {names}")
    return BASELINES[name]()


def _identity(name: str, method: Method, setting: Setting, theta_sha256: str) -> Row:
  identity = {
    "method": name,
    "protocol": _PROTOCOL,
    **setting.as_dict(),
    "loading": _bindings("load_data."),
  }
  if isinstance(method, Rule):
    return identity | {"theta": theta_sha256, "dynamics": dataclasses.asdict(method.schedule)}
  if isinstance(method, LibraryOptimizer):
    # What an optimizer is made of lies anywhere in the configuration but in the suite's own part.
    return identity | {"optimizer": method.optimizer.name, "bindings": _bindings("", "evaluate.")}
  options: Any = method
  return identity | {"options": json.loads(json.dumps(dataclasses.asdict(options)))}


def _bindings(prefix: str, without: str | None = None) -> list[str]:
  """Lines of the configuration that begin with `prefix`, sorted, but for those with `without`."""
  lines = [line for line in gin.config_str(max_line_length=1_000_000).splitlines() if " = " in line]
  return sorted(
    line for line in lines if line.startswith(prefix) and not (without and line.startswith(without))
  )
