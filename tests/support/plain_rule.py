"""The rule in plain NumPy, as docs/rule.md writes it, at the precision of its inputs.

Written apart from the package, which it checks; `spoilt` makes versions of it with one mistake.
Layouts: [N, T, C], convolutions along T. Names of theta without prefix, as "conv_1d/w".
"""

import pathlib
import re
import types

import numpy as np

THETA = "theta/MoreLocalWeightUpdateProcess/"
BASE = "LocalWeightUpdateWLearner/LinearBatchNorm"


def spoilt(right, wrong):
  """This module with one piece of its text replaced."""
  head, mark, text = pathlib.Path(__file__).read_text().partition("# The rule.\n")
  assert right in text, right
  module = types.ModuleType(f"{__name__} with {wrong!r}")
  exec(head + mark + text.replace(right, wrong), vars(module))
  return module


def inputs(trace, dtype):
  """theta, phi and the batches of a recording."""
  theta = {k.removeprefix(THETA): v.astype(dtype) for k, v in trace.items() if k.startswith(THETA)}
  layers = sum(k.startswith("phi0/") and k.endswith("/linear/w") for k in trace) // 2

  def leaf(number, name):
    number = f"_{number}" if number else ""
    return trace[f"phi0/{BASE}{number}/{name}"].astype(dtype)

  phi = [
    (leaf(i, "linear/w"), leaf(i, "b")[0], leaf(layers + i, "linear/w")) for i in range(layers)
  ]
  batches = [trace[key] for key in sorted(k for k in trace if re.fullmatch(r"x/\d+", k))]
  return theta, phi, [x.reshape(len(x), -1).astype(dtype) for x in batches]


# The rule.
def standardised(a, axes, epsilon):
  centred = a - a.mean(axes, keepdims=True)
  return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)


def base_model(phi, x):
  xs, zs = [x], []
  for w, b, _ in phi:
    zs.append(standardised(xs[-1] @ w, 0, 1e-6) + b)
    xs.append(np.maximum(zs[-1], 0))
  return xs, zs


def convolved(theta, name, a):
  w = theta[f"{name}/w"]
  width, length = len(w), a.shape[1]
  padded = np.pad(a, ((0, 0), (width // 2, width // 2), (0, 0)))
  taps = [padded[:, k : k + length] @ w[k] for k in range(width)]
  return sum(taps) + theta[f"{name}/b"]


def batch_norm(theta, name, a):
  return standardised(a, (0, 1), 1e-3) + theta[f"{name}/beta"]


def block(theta, conv, norm, a):
  return np.maximum(batch_norm(theta, norm, convolved(theta, conv, a)), 0)


def numbered(name, i):
  return f"{name}_{i}" if i else name


def top_network(theta, x):
  def named(i):
    return (f"compute_top_delta/{numbered(kind, i)}" for kind in ("conv_1d", "batch_norm"))

  a = block(theta, *named(0), x.T[:, :, None])
  a = a.transpose(2, 1, 0)
  a = block(theta, *named(2), block(theta, *named(1), a))
  a = a.transpose(2, 1, 0)
  i = 3
  while f"compute_top_delta/batch_norm_{i}/beta" in theta:
    a = block(theta, *named(i), a)
    i += 1
  return convolved(theta, f"compute_top_delta/conv_1d_{i}", a).transpose(1, 0, 2)


def statistics(m, axis):
  deviation = np.sqrt(m.var(axis) + 1e-8)
  return [abs(m).mean(axis), np.sqrt((m**2).mean(axis) + 1e-6), m.mean(axis), deviation]


def weight_features(below, above):
  bottom = statistics(below, axis=0) if below is not None else statistics(above, axis=1)
  top = statistics(above, axis=1) if above is not None else bottom
  s = np.stack(bottom + top, axis=-1)
  return s / np.sqrt((s**2).mean() + 1e-6)


def unit_conv(theta, name, a):
  u = a.transpose(1, 0, 2)
  u = block(theta, f"{name}/conv_1d", f"{name}/batch_norm", u)
  u = block(theta, f"{name}/conv_1d_1", f"{name}/batch_norm_1", u)
  return a + u.transpose(1, 0, 2)


def layer_network(theta, x, z, d, b, below, above):
  batch, n = x.shape
  t = np.linspace(0, 4 * np.pi, n).astype(x.dtype)
  waves = np.broadcast_to(np.stack([np.sin(t), np.cos(t)], -1)[None], (batch, n, 2))
  own = np.concatenate([x[:, :, None], z[:, :, None], waves, d], axis=-1)
  own = batch_norm(theta, "batch_norm", own.transpose(1, 0, 2))
  constant = np.concatenate([weight_features(below, above), b[:, None]], axis=-1)
  a = np.concatenate([np.broadcast_to(constant[:, None], (n, batch, 9)), own], axis=-1)
  i = 0
  while f"{numbered('conv_1d', i)}/w" in theta:
    a = block(theta, numbered("conv_1d", i), f"batch_norm_{i + 1}", a)
    a = unit_conv(theta, numbered("ConcatUnitConv", i), a)
    i += 1
  return a.transpose(1, 0, 2)


def layer_delta(theta, d, z, h):
  return d * (1 / (1 + np.exp(-z)))[:, :, None] + h @ theta["linear/w"] + theta["linear/b"]


def passed_down(delta, v):
  e = np.einsum("bnc,mn->bmc", delta, v)
  return e / np.sqrt((e**2).mean(-1, keepdims=True) + 1e-6)


def readout(theta, name, h1, h2, bottom="bottom"):
  top = h1 @ theta[f"{name}_top/linear/w"] + theta[f"{name}_top/linear/b"]
  low = h2 @ theta[f"{name}_{bottom}/linear/w"] + theta[f"{name}_{bottom}/linear/b"]
  return np.einsum("big,bjg->ij", low, top) / (top.shape[-1] * len(top))


def symmetric(theta, name, h):
  r = readout(theta, name, h, h)
  r = (r + r.T) / np.sqrt(r.dtype.type(2))
  np.fill_diagonal(r, 0)
  return r / np.sqrt(r.dtype.type(len(r)))


def terms(theta, prefix, w, h_u, h_d, x_u, x_d):
  def across(name):
    return readout(theta, f"{prefix}weight_readout_{name}", h_u, h_d)

  def symm(name):
    return symmetric(theta, prefix + name, h_d if "lower" in name else h_u)

  batch, n = x_u.shape
  u, low = standardised(x_u, 0, 1e-6), standardised(x_d, 0, 1e-6)
  c = w @ (u.T @ u / batch) / np.sqrt(w.dtype.type(n))
  psd = readout(theta, f"{prefix}lin_upper_psd", h_u, h_u, bottom="top")
  q = np.sqrt(1 + w**2) - 1
  return {
    "0_order": across("0"),
    "1_order": w * across("1"),
    "decorr_x": c / np.sqrt((c**2 + 1e-8).mean()),
    "hebb": -(low.T @ u) / batch,
    "large_decay": w**2 * np.sign(w),
    "lin_lower_symm": symm("lin_lower_symm") @ w,
    "lin_upper_psd": w @ psd / np.sqrt(w.dtype.type(n)),
    "lin_upper_symm": w @ symm("lin_upper_symm"),
    "rbf": np.exp(-(w**2)) * across("rbf"),
    "sqr_lower_symm": np.sign(w) * (symm("sqr_lower_symm") @ q),
    "sqr_upper_symm": np.sign(w) * (q @ symm("sqr_upper_symm")),
    "w_base": w,
  }


def normed(a):
  return a / np.sqrt(1 + (a**2).mean(0, keepdims=True))


def merged(theta, prefix, w, after):
  c, c_0 = (theta[f"{prefix}_weight_readout_coeffs/{leaf}"] for leaf in "wb")
  g = (sum(c[i, 0] * after[key] for i, key in enumerate(sorted(after))) + c_0[0]) / 12
  g = g - w * np.maximum((g * w).mean(), 0)
  g = normed(g / np.sqrt(w.dtype.type(12)))
  return g - w / 7


def bias_change(theta, h):
  c = (h @ theta["bias_readout/w"] + theta["bias_readout/b"])[:, :, 0].mean(0)
  c = c + np.maximum(-c.mean(), 0)
  return c / np.sqrt(0.5 + (c**2).mean())


def hidden_states(theta, phi, xs, zs, out):
  h, d = {}, top_network(theta, xs[-1])
  out["top_delta/d"] = d
  for layer in reversed(range(len(xs))):
    z = zs[layer - 1] if layer else xs[0]
    b = phi[layer - 1][1] if layer else np.zeros_like(xs[0][0])
    below = phi[layer - 1][0] if layer else None
    above = phi[layer][0] if layer < len(phi) else None
    h[layer] = layer_network(theta, xs[layer], z, d, b, below, above)
    delta = layer_delta(theta, d, z, h[layer])
    out |= {f"d_in/l{layer}": d, f"h/l{layer}": h[layer], f"delta/l{layer}": delta}
    if layer:
      d = passed_down(delta, phi[layer - 1][2])
      out[f"d_out/l{layer}"] = d
  return h


def change(theta, phi, x):
  """(dW, db, dV) of each layer, and every array on the way by its name in a recording."""
  xs, zs = base_model(phi, x)
  out = {f"base/x{i}": value for i, value in enumerate(xs)}
  out |= {f"base/z{i}": value for i, value in enumerate(zs)}
  h = hidden_states(theta, phi, xs, zs, out)
  both = "backward_weight_readout_coeffs/w" in theta
  changes = []
  for m, (w_raw, _, v_raw) in enumerate(phi):
    of = {}
    for prefix, raw in (("forward", w_raw), ("backward", v_raw))[: 1 + both]:
      w = raw / np.sqrt((raw**2).mean(0, keepdims=True) + 1e-6)
      before = terms(theta, prefix, w, h[m + 1], h[m], xs[m + 1], xs[m])
      after = {key: normed(term) for key, term in before.items()}
      of[prefix] = merged(theta, prefix, w, after)
      out |= {f"terms_before/{prefix}/w{m}/{key}": term for key, term in before.items()}
      out |= {f"terms_after/{prefix}/w{m}/{key}": term for key, term in after.items()}
      out[f"change_w/{prefix}/w{m}"] = of[prefix]
    out[f"change_b/b{m}"] = bias_change(theta, h[m + 1])
    changes.append((of["forward"], out[f"change_b/b{m}"], of.get("backward", of["forward"])))
  return changes, out


def step(theta, phi, x, rate):
  moves = change(theta, phi, x)[0]
  return [
    tuple(old * (1 - rate) - rate * move for old, move in zip(layer, moved, strict=True))
    for layer, moved in zip(phi, moves, strict=True)
  ]


def recorded(trace, dtype, steps, rate=0.1):
  """Every array of a recording that this computes, with phi after `steps` steps."""
  theta, phi, batches = inputs(trace, dtype)
  _, out = change(theta, phi, batches[0])
  for n, x in enumerate(batches[:steps], start=1):
    phi = step(theta, phi, x, rate)
    for i, (w, b, v) in enumerate(phi):
      forward, backward = numbered("", i), numbered("", len(phi) + i)
      leaves = {f"{forward}/linear/w": w, f"{forward}/b": b[None], f"{backward}/linear/w": v}
      out |= {f"phi_lr{rate}/{n}/{BASE}{name}": value for name, value in leaves.items()}
  return {key: value for key, value in out.items() if key in trace}
