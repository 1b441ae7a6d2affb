"""Re-computes a trace of the authors' program and compares every array (docs/rule.md, section 7).

Three kinds of file are known: traces of the update, of its gradient, and of the ridge probe.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from unsup_rule.errors import UnsupRuleError
from unsup_rule.probe import ProbeResult, RidgeProbe, Targets
from unsup_rule.reference.tf_names import (
  BASE_PREFIX,
  THETA_PREFIX,
  base_model_from_tf,
  theta_from_tf,
)
from unsup_rule.rule.capture import Captured, capturing
from unsup_rule.rule.mlp import MLP, flatten_examples
from unsup_rule.rule.structures import Activations, Params
from unsup_rule.rule.theta import Sizes, Theta, sizes_of
from unsup_rule.rule.tuning import on_cpu
from unsup_rule.rule.update import changes

Arrays = Mapping[str, np.ndarray]


GROUPS = (
  *("base", "top_delta", "d_in", "d_out", "h", "delta", "trace", "terms_before", "terms_after"),
  *("change_w", "change_b", "phi", "phi_lr", "J", "dJ_dtheta", "dJ_dphi", "dJ_dx", "probe"),
)
ROUNDINGS = 3  # Times that the inputs are rounded otherwise.
ALLOWED_NOISE = 8  # Times the largest change that this makes; float32 agreement stays below once.
ALLOWED_ULPS = 4  # Of a group's largest value: groups that hardly compute anything.
_ULP = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Largest error over the arrays of one group.

  Attributes:
    group: a name in `GROUPS`.
    n_arrays: their number.
    error: the largest.
    scale: the largest expected value.
    noise: the largest change of a value when inputs are rounded otherwise.
    worst: the array with the largest error.
  """

  group: str
  n_arrays: int
  error: float
  scale: float
  noise: float
  worst: str

  @property
  def tolerance(self) -> float:
    """Largest error that passes: what float32 can do to this very case."""
    return ALLOWED_NOISE * self.noise + ALLOWED_ULPS * _ULP * self.scale

  @property
  def passed(self) -> bool:
    """Whether the error is within it; NaN is not."""
    return bool(self.error <= self.tolerance)


def with_noise(
  recompute: Callable[[Arrays], dict[str, np.ndarray]], given: Arrays
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
  """What `recompute` makes of a recording, and how far each array moves by float32 rounding alone.

  Every number that is given is moved by one unit in its last place, up or down, a few times; on an
  accelerator with products at full precision, so that the noise of others is not allowed.
  """
  actual = recompute(given)
  rng = np.random.default_rng(0)
  noise = dict.fromkeys(actual, 0.0)
  full = contextlib.nullcontext() if on_cpu() else jax.default_matmul_precision("highest")
  with full:
    exact = actual if on_cpu() else recompute(given)
    for _ in range(ROUNDINGS):
      moved = recompute({key: _rounded(rng, key, array) for key, array in given.items()})
      noise = {key: max(noise[key], _error(exact[key], moved[key])) for key in actual}
  return actual, noise


def _rounded(rng: np.random.Generator, key: str, array: np.ndarray) -> np.ndarray:
  if not is_input(key) or array.dtype.kind != "f":
    return array
  return (array * (1 + _ULP * rng.choice([-1, 1], array.shape))).astype(array.dtype)


def compare(expected: Arrays, actual: Arrays, noise: Mapping[str, float]) -> list[Comparison]:
  """Groups the keys of `actual` and takes the largest error of each group."""
  groups: dict[str, list[str]] = {}
  for key in actual:
    groups.setdefault(_group(key), []).append(key)
  comparisons = []
  for group, keys in groups.items():
    errors = {key: _error(expected[key], actual[key]) for key in keys}
    worst = max(errors, key=lambda key, errors=errors: errors[key])
    scale = max(float(np.max(np.abs(expected[key]), initial=0)) for key in keys)
    largest = max(noise[key] for key in keys)
    comparisons.append(Comparison(group, len(keys), errors[worst], scale, largest, worst))
  return comparisons


def _group(key: str) -> str:
  head = key.split("/")[0]
  if head.startswith("phi_lr"):
    return "phi_lr"
  if re.fullmatch(r"phi\d+", head):
    return "phi"
  return head if head in GROUPS else "probe"


def _error(expected: np.ndarray, actual: np.ndarray) -> float:
  actual = np.asarray(actual)
  if actual.shape != np.shape(expected):
    return float("inf")
  error = float(np.max(np.abs(actual.astype(np.float64) - expected), initial=0))
  return error if np.isfinite(error) else float("inf")


@dataclasses.dataclass(frozen=True)
class Case:
  """The inputs of an update trace: who computes what from where."""

  mlp: MLP
  phi: Params
  theta: Theta
  learning_rate: float
  batches: list[jax.Array]

  @property
  def sizes(self) -> Sizes:
    """Sizes of the rule, from theta's shapes."""
    return sizes_of(self.theta)

  def step(self, theta: Theta, phi: Params, x: jax.Array) -> tuple[Activations, Params]:
    """Activations and changes for one batch of images."""
    return _step(self.mlp, self.sizes, theta, phi, x)


def _step(
  mlp: MLP, sizes: Sizes, theta: Theta, phi: Params, x: jax.Array
) -> tuple[Activations, Params]:
  activations = mlp.apply(phi, flatten_examples(x))
  return activations, changes(theta, sizes, phi, activations)


def _captured_step(
  mlp: MLP, sizes: Sizes, theta: Theta, phi: Params, x: jax.Array
) -> tuple[Activations, Captured]:
  """Activations, and all intermediates by name."""
  with capturing() as captured:
    activations, _ = _step(mlp, sizes, theta, phi, x)
  return activations, captured


# Traces of one architecture share compiled programs.
_compiled_step = jax.jit(_step, static_argnums=(0, 1))
_compiled_captured_step = jax.jit(_captured_step, static_argnums=(0, 1))


def with_theta(trace: Arrays, theta: Theta) -> Arrays:
  """The recording with this theta in place of its own."""
  return {
    **{key: array for key, array in trace.items() if not key.startswith("theta/")},
    **{
      f"theta/{THETA_PREFIX}{module}/{name}": np.asarray(leaf)
      for module, leaves in theta.items()
      for name, leaf in leaves.items()
    },
  }


def read_case(trace: Arrays) -> Case:
  """Reads architecture, parameters and batches from the arrays of a trace."""
  try:
    meta = json.loads(str(trace["meta_json"]))
    n_batches = sum(re.fullmatch(r"x/\d+", key) is not None for key in trace)
    batches = [jnp.asarray(trace[f"x/{i}"], jnp.float32) for i in range(n_batches)]
  except (KeyError, json.JSONDecodeError) as error:
    raise UnsupRuleError(f"not a trace of the rule: {error} is missing or damaged") from error
  mlp, phi = base_model_from_tf(_under(trace, "phi0/"), meta.get("activation", "relu"))
  own = theta_from_tf(_under(trace, "theta/"))
  theta = {name: jax.tree.map(jnp.asarray, leaves) for name, leaves in own.items()}
  return Case(mlp, phi, theta, float(meta.get("lr", 1e-4)), batches)


def recompute_update(trace: Arrays, jit: bool = True) -> dict[str, np.ndarray]:
  """Our value for every array of an update trace that is an output.

  Args:
    trace: arrays by key, as section 7 of docs/rule.md lists them.
    jit: compile, or run operation by operation.
  """
  case = read_case(trace)
  run = _compiled_captured_step if jit else _captured_step
  activations, captured = run(case.mlp, case.sizes, case.theta, case.phi, case.batches[0])
  out = {}
  top = captured[f"l{case.mlp.n_layers}/d_in"]
  values = {"base/x0": activations.x_0, "top_delta/d": top.transpose(1, 2, 0)}
  for m, layer in enumerate(activations.layers):
    values[f"base/x{m + 1}"], values[f"base/z{m}"] = layer.x, layer.z
  for key in trace:
    name = _captured_name(key)
    if name is not None and name in captured:
      value = captured[name]
      values[key] = value.transpose(_axes(key)) if value.ndim == 3 else value
  out = {key: np.asarray(value) for key, value in values.items() if key in trace}
  return out | _trajectories(trace, case, _compiled_step if jit else _step)


def _axes(key: str) -> tuple[int, int, int]:
  """From our [channels, batch, units] to the layout of the authors' program."""
  batch_first = not key.startswith("trace/") or "ConcatUnitConv" in key
  return (1, 2, 0) if batch_first else (2, 1, 0)


def _captured_name(key: str) -> str | None:
  """Our name of the captured value for an array of a trace."""
  if match := re.fullmatch(r"(h|delta|d_in|d_out)/l(\d+)", key):
    return f"l{match[2]}/{match[1]}"
  if match := re.fullmatch(r"(terms_before|terms_after)/(\w+)/w(\d+)/(\w+)", key):
    return f"l{int(match[3]) + 1}/{match[1]}/{match[2]}/{match[4]}"
  if match := re.fullmatch(r"change_w/(\w+)/w(\d+)", key):
    return f"l{int(match[2]) + 1}/change_w/{match[1]}"
  if match := re.fullmatch(r"change_b/b(\d+)", key):
    return f"l{int(match[1]) + 1}/change_b"
  if match := re.fullmatch(r"trace/top/\d+_(.+)", key):
    return f"top/compute_top_delta/{match[1]}"
  if match := re.fullmatch(r"trace/h_l(\d+)/\d+_(.+)", key):
    return f"l{match[1]}/{match[2].replace('.', '/')}"
  return None


def _trajectories(trace: Arrays, case: Case, step: Callable) -> dict[str, np.ndarray]:
  """phi after several steps, at the recorded learning rates."""
  wanted: dict[float, dict[int, str]] = {}
  for key in trace:
    if match := re.match(r"(phi(\d+)/|phi_lr([\d.e-]+)/(\d+)/)", key):
      n, rate = int(match[2] or match[4]), float(match[3] or case.learning_rate)
      if n > 0:
        wanted.setdefault(rate, {})[n] = match[1]
  out = {}
  for rate, steps in wanted.items():
    phi = case.phi
    for n in range(1, max(steps) + 1):
      _, change = step(case.mlp, case.sizes, case.theta, phi, case.batches[n - 1])
      # In NumPy, since each operation on each shape would be a program.
      old, change = jax.device_get((phi, change))
      phi = jax.tree.map(lambda w, c, lr=rate: jnp.asarray(w * (1 - lr) - lr * c), old, change)
      if n in steps:
        out |= {steps[n] + name: value for name, value in _tf_phi(trace, phi).items()}
  return {key: np.asarray(value) for key, value in out.items() if key in trace}


def _tf_phi(trace: Arrays, phi: Params) -> dict[str, jax.Array]:
  """Our {W, b, V} under the names of the authors' program; unused backward biases do not change."""
  out = {}
  layers = phi.layers
  for i, layer in enumerate(layers):
    forward, backward = (
      BASE_PREFIX + (f"_{number}" if number else "") for number in (i, len(layers) + i)
    )
    out |= {f"{forward}/linear/w": layer.w, f"{forward}/b": layer.b[None]}
    out |= {f"{backward}/linear/w": layer.v, f"{backward}/b": trace[f"phi0/{backward}/b"]}
  return out


def _projected(
  mlp: MLP, sizes: Sizes, projections: Arrays, theta: Theta, phi: Params, x: jax.Array
) -> jax.Array:
  total = jnp.zeros(())
  for m, layer in enumerate(_step(mlp, sizes, theta, phi, x)[1].layers):
    for key, change in zip((f"forward/w{m}", f"b{m}", f"backward/w{m}"), layer, strict=True):
      if key in projections:
        total += jnp.sum(change * projections[key])
  return total


_gradient = jax.value_and_grad(_projected, argnums=(3, 4, 5))
_compiled_gradient = jax.jit(_gradient, static_argnums=(0, 1))


def recompute_gradient(trace: Arrays, base: Arrays, jit: bool = True) -> dict[str, np.ndarray]:
  """Gradients of J, fixed projections of all changes at step 1, by theta, phi0 and the input."""
  case = read_case(base)
  function = _compiled_gradient if jit else _gradient
  value, (d_theta, d_phi, d_x) = function(
    case.mlp, case.sizes, _under(trace, "proj/"), case.theta, case.phi, case.batches[0]
  )
  out = {"J": value, "dJ_dx": d_x}
  for module, leaves in d_theta.items():
    out |= {f"dJ_dtheta/{THETA_PREFIX}{module}/{leaf}": g for leaf, g in leaves.items()}
  out |= {f"dJ_dphi/{name}": g for name, g in _tf_phi(base, d_phi).items()}
  return {key: np.asarray(value) for key, value in out.items() if key in trace}


def _probe(
  probe: RidgeProbe, n_ways: int, features: jax.Array, train: Targets, test: Targets
) -> ProbeResult:
  return probe(features, train, test, n_ways)


_compiled_probe = jax.jit(_probe, static_argnums=(0, 1))


def recompute_probe(trace: Arrays, jit: bool = True) -> dict[str, np.ndarray]:
  """Every output of the ridge probe in each recorded variant."""
  features = np.concatenate([trace["features_train"], trace["features_test"]])
  n_ways = trace["y_train"].shape[1]
  targets = [Targets(jnp.argmax(trace[key], axis=1)) for key in ("y_train", "y_test")]
  out = {}
  for variant, options in json.loads(str(trace["meta_json"])).items():
    probe = RidgeProbe(**options)
    run = _compiled_probe if jit else _probe
    r = run(probe, n_ways, jnp.asarray(features), *targets)
    f = features / np.sqrt((features**2).sum(0)) if probe.normalize_act else features
    values = {f"stat_{name}": value for name, value in r.scalars().items() if name != "loss"}
    values |= {"loss": r.loss, "J": r.loss, "ridge_x": f[: len(targets[0].labels)]}
    values |= {"ridge_y": r.ridge_y, "ridge_w": r.ridge_w}
    values |= {"logit_train": r.logit_train, "logit_test_unnorm": r.logit_test}
    out |= {f"{variant}/{name}": np.asarray(value) for name, value in values.items()}
  return {key: value for key, value in out.items() if key in trace}


_INPUTS = re.compile(r"(x/|theta/|phi0/|proj/|meta_json$|features_|y_t)")


def is_input(key: str) -> bool:
  """Whether an array of a trace is given rather than computed."""
  return _INPUTS.match(key) is not None


def _under(trace: Arrays, prefix: str) -> dict[str, np.ndarray]:
  return {key.removeprefix(prefix): trace[key] for key in trace if key.startswith(prefix)}
