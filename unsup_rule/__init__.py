"""The unsupervised weight-update rule of Metz et al. (ICLR 2019), for learned_optimization.

Importing this package puts a hook in place that makes learned_optimization importable (see
`unsup_rule.compat`), so import it first; it imports neither the library nor jax. The names below
are loaded when first used, and those that apply a rule do without the library.
"""

import importlib.metadata
from typing import Any as _Any

from unsup_rule import compat as compat
from unsup_rule.extras import needed as _needed

try:
  __version__ = importlib.metadata.version("unsup-rule")
except importlib.metadata.PackageNotFoundError:  # A checkout on PYTHONPATH, not installed.
  __version__ = "0+unknown"

_HOMES = {
  "MLP": "unsup_rule.rule.mlp",
  "MLPTaskFamily": "unsup_rule.plugin.task",
  "RidgeProbe": "unsup_rule.probe",
  "Source": "unsup_rule.tasks.sources",
  "Targets": "unsup_rule.probe",
  "TaskSampler": "unsup_rule.tasks.sampler",
  "UnsupervisedFeatures": "unsup_rule.features.transformer",
  "UnsupervisedRule": "unsup_rule.plugin.rule",
  "load": "unsup_rule.data",
  "load_theta": "unsup_rule.meta.checkpoint",
  "optax_transformation": "unsup_rule.transformation",
  "pretrained": "unsup_rule.weights.pretrained",
  "scale_by_rule": "unsup_rule.transformation",
  "step": "unsup_rule.rule.pure",
}


def __getattr__(name: str) -> _Any:
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(_needed(_HOMES[name], f"unsup_rule.{name}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_HOMES})
