"""Meta-training from scratch on an accelerator, wall-clock scheduled; snapshots of theta as it goes."""
import argparse, concurrent.futures, json, os, pathlib, threading, time
p = argparse.ArgumentParser()
p.add_argument("--out", type=pathlib.Path, required=True)
p.add_argument("--seconds", type=float, default=500)
p.add_argument("--tiny", action="store_true")
p.add_argument("--tasks", type=int, default=128)
p.add_argument("--init", default="")
p.add_argument("--norows", action="store_true")
p.add_argument("--resume", default="", help="npz with everything")
p.add_argument("--fstart", type=float, default=0.0)
p.add_argument("--fend", type=float, default=1.0)
p.add_argument("--batched", type=int, default=1)
a = p.parse_args()
T0 = time.monotonic()
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".85")
left = lambda: a.seconds - (time.monotonic() - T0)
a.out.mkdir(parents=True, exist_ok=True)
import numpy as np
import jax, jax.numpy as jnp, optax
import unsup_rule
from unsup_rule import probe as probes
from unsup_rule.data.bank import Bank
from unsup_rule.tasks import sources as S
from unsup_rule.tasks.distribution import TaskDistribution
from unsup_rule.tasks.lengths import EpisodeLengths
from unsup_rule.compat.estimators import truncated_grad
from unsup_rule.rule.sizes import COEFFICIENTS
from learned_optimization.outer_trainers import gradient_learner

packed = dict(np.load(pathlib.Path(__file__).parent / "banks.npz"))
loaded = {}
def load(name, split, *, resolution=None, grey=False, **_):
  key = f"{name}|{split}|{resolution}"
  if key not in loaded:
    loaded[key] = Bank.build(name, split, packed[key + "|images"], packed[key + "|labels"].astype(np.int32),
                             [str(n) for n in packed[key + "|names"]], 1 / 255)
  return loaded[key]
S.load = load
serial_solve = probes._solve
which = threading.local()
def solve(A, b):
  if getattr(which, "serial", False):
    return serial_solve(A, b)
  return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(A), True), b)
if a.batched:
  probes._solve = solve

class ManyRidges(probes.RidgeProbe):
  """Mean meta-loss over several ridge factors."""
  def __call__(self, features, train, test, n_ways, ways=None):
    import dataclasses
    outs = [probes.RidgeProbe(ridge_factor=r)(features, train, test, n_ways, ways) for r in (0.1, 1.0, 10.0)]
    return outs[0]._replace(loss=(2 * outs[0].loss + outs[1].loss + outs[2].loss) / 4)

half = {"ways": (10,), "noise": 0.1, "noise_probability": 0.5}
def sources(res):
  r = {"resolutions": (res,)}
  return [
    {"name": "glyphs", **half, **r, "weight": 1.5, "shift": 1.5 * res / 14, "shift_probability": 0.5},
    {"name": "glyphs", "ways": (10,), **r, "weight": 1.5, "thickness": 2.0, "thickness_probability": 0.8, "shading": 1.0, "shading_probability": 0.8},
    {"name": "cifar10", "grey": True, "classes": (0, 1, 2, 3, 4, 5), "ways": (5,), **r, "weight": 1.0, "noise": 0.1, "noise_probability": 0.5},
    {"name": "silhouettes", **half, **r, "weight": 2.5},
  ]
UNROLL = 3 if a.tiny else 25
rule = unsup_rule.UnsupervisedRule(top_delta_size=16, compute_h_size=16, delta_dim=8, learning_rate=0.04, decay_steps=400.0,
  decay_power=9.0, hidden_bias=0.4, embedding_bias=6.0, shuffle_inputs=True, initial_coefficients={"hebb": 3.0, "decorr_x": 0.5}, tasks="auto" if a.tiny else "vmap")
probe = ManyRidges()
def estimator(res, depth, width, batch, tasks, kind="train"):
  dist = TaskDistribution(sources(res), depths=(depth,), widths=(width,), batch_size=batch, probe=probe)
  if kind != "train":
    dist = TaskDistribution([{"name": "glyphs", "ways": (10,), "resolutions": (res,), "noise": 0.1}], depths=(depth,), widths=(width,), batch_size=batch)
  fam = dist.family(0, 0)
  return truncated_grad(fam, rule, EpisodeLengths(UNROLL, UNROLL, staggered=False), num_tasks=tasks, unroll_length=UNROLL)
n = a.tasks
if a.tiny:
  A = [(10, 2, 16, 32, 4)]; B = [(14, 1, 32, 32, 4)]
else:
  A = [(10, 2, 64, 32, n)]
  B = [(14, 2, 256, 32, n // 2), (14, 1, 512, 32, n // 2), (14, 4, 64, 32, n), (14, 4, 128, 32, n // 2)]
log = open(a.out / "train.jsonl", "a")
lock = threading.Lock()
def say(**row):
  row["at"] = round(time.monotonic() - T0, 1)
  with lock:
    log.write(json.dumps(row) + "\n"); log.flush()
    print(json.dumps(row), flush=True)
def rates():
  n_ = 512 if a.tiny else 8192
  x = jax.random.normal(jax.random.PRNGKey(0), (n_, n_))
  for prec in (None, "highest"):
    f = jax.jit(lambda y: jnp.dot(y, y, precision=prec)); f(x).block_until_ready(); t = time.monotonic()
    for _ in range(5): o = f(x)
    o.block_until_ready(); say(what="product", precision=str(prec), tflops=round(10 * n_**3 / (time.monotonic() - t) / 1e12, 2))
  big = jnp.ones((2**20 if a.tiny else 2**29,), jnp.float32); g = jax.jit(lambda y: y + 1); g(big).block_until_ready(); t = time.monotonic()
  for _ in range(5): o = g(big)
  o.block_until_ready(); say(what="copy", gigabytes_a_second=round(5 * 8 * big.size / (time.monotonic() - t) / 1e9, 1))
if not a.norows:
  rates()
  import subprocess, sys
  procs = []
  for name, prec in (("default", "highest"), ("small_separate", "highest"), ("small_separate", "")):
    env = dict(os.environ, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    if prec: env["JAX_DEFAULT_MATMUL_PRECISION"] = prec
    procs.append((name, prec, subprocess.Popen([sys.executable, "-m", "unsup_rule.cli", "verify", f"tests/golden/{name}.npz"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=pathlib.Path(__file__).parent / "old")))
  def verified():
    for name, prec, proc in procs:
      out, err = proc.communicate()
      say(what="verify", file=name, precision=prec, code=proc.returncode, failed=[l for l in out.splitlines() if "FAILED" in l][:12], err=err[-200:])
  threading.Thread(target=verified, daemon=True).start()
say(what="start", device=jax.devices()[0].device_kind, tasks=n)

theta = rule.init(jax.random.PRNGKey(0))
if a.init:
  flat = dict(np.load(a.init))
  theta = {m: {k: jnp.asarray(flat[f"{m}|{k}"]) for k in v} for m, v in theta.items()}
adam = optax.chain(optax.clip(3.0), optax.scale_by_adam(b1=0.9, b2=0.99))
opt = adam.init(theta)
is_coef = lambda path: any(str(getattr(k, "key", "")).endswith(COEFFICIENTS) for k in path)

@jax.jit
def update(theta, ema, opt, grad, lr, lr_c, decay):
  ok = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grad)]))
  grad = jax.tree.map(lambda g: jnp.where(ok, g, 0.0), grad)
  u, new_opt = adam.update(grad, opt)
  new = jax.tree_util.tree_map_with_path(lambda p, t, d: t - (lr_c if is_coef(p) else lr) * d, theta, u)
  pick = lambda x, y: jax.tree.map(lambda i, j: jnp.where(ok, i, j), x, y)
  new, new_opt = pick(new, theta), pick(new_opt, opt)
  ema = jax.tree.map(lambda e, t: decay * e + (1 - decay) * t, ema, new)
  return new, ema, new_opt, ok

ready = {}
def prepare(spec):
  t = time.monotonic()
  kind = spec[5] if len(spec) > 5 else "train"
  which.serial = kind == "serial"
  try:
    with jax.default_matmul_precision("highest" if kind == "highest" else None):
      e = estimator(*spec)
      w = gradient_learner.WorkerWeights(theta0, None, None)
      state = e.init_worker_state(w, jax.random.PRNGKey(1))
      for i in range(2):
        t1 = time.monotonic()
        out, _ = e.compute_gradient_estimate(w, jax.random.PRNGKey(2), state)
        jax.block_until_ready(out.grad)
      dt = time.monotonic() - t1
      ready[spec] = (e, state, dt)
      m = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9
      say(what="ready", spec=spec, compile=round(time.monotonic() - t - dt, 1), seconds=round(dt, 3), rate=round(spec[4] * UNROLL / dt, 1), loss=float(out.mean_loss), peak_gb=round(m, 2))
  except Exception as error:
    say(what="failed", spec=spec, error=f"{type(error).__name__}: {str(error)[:400]}")
theta0 = theta
pool = concurrent.futures.ThreadPoolExecutor(8)
R = [] if a.norows else ([(14, 1, 16, 32, 2, "serial"), (14, 1, 16, 32, 4, "highest")] if a.tiny else
  [(14, 4, 64, 32, 64, "serial"), (14, 4, 64, 32, 64, "tf32"), (14, 4, 64, 32, 256, "tf32"), (14, 4, 64, 32, 256, "highest"), (14, 4, 64, 32, 1024, "tf32")])
futures = [pool.submit(prepare, s) for s in A + R + B]
def time_rows():
  for spec in R:
    if spec not in ready: continue
    e, state, _ = ready[spec]
    w = gradient_learner.WorkerWeights(theta0, None, None)
    times = []
    for i in range(3):
      t = time.monotonic(); out, _ = e.compute_gradient_estimate(w, jax.random.PRNGKey(3 + i), state); jax.block_until_ready(out.grad); times.append(time.monotonic() - t)
    say(what="row", spec=spec, seconds=round(min(times), 4), steps_a_second=round(spec[4] * UNROLL / min(times), 1))
    del ready[spec]
if R:
  row_futures = futures[len(A):len(A) + len(R)]
  while not all(f.done() for f in row_futures) and left() > a.seconds * 0.45: time.sleep(0.2)
  time_rows()
while not any(s in ready for s in A + B):
  time.sleep(0.2)
  if all(f.done() for f in futures) and not ready: raise SystemExit("nothing compiled")
def save(name):
  flat = {f"{m}|{k}": np.asarray(v) for m, mod in ema.items() for k, v in mod.items()}
  np.savez(a.out / f"{name}.npz", **flat)
ema = theta
step = inner = 0
if a.resume:
  z = np.load(a.resume); tree = jax.tree.structure((theta, ema, opt)); k = tree.num_leaves
  theta, ema, opt = jax.tree.unflatten(tree, [jnp.asarray(z[f"arr_{i}"]) for i in range(k)])
  step, inner = int(z["step"]), int(z["inner"])
  say(what="resumed", step=step)
began = time.monotonic(); span = left() - 8
key = jax.random.PRNGKey(7)
last_log = last_save = time.monotonic()
sums = {}
spent = {s: 0.0 for s in A + B}
n_snap = 0
while left() > 8:
  f = a.fstart + (a.fend - a.fstart) * (time.monotonic() - began) / span
  stage = A if f < 0.22 and any(s in ready for s in A) else B
  live = [s for s in stage if s in ready] or [s for s in A + B if s in ready]
  # Equal time each: the one that has had least.
  spec = min(live, key=lambda s: spent[s])
  e, state, _ = ready[spec]
  warm = min(1.0, (step + 1) / 20)
  cos = 0.5 * (1 + np.cos(np.pi * min(f, 1.0)))
  lr, lr_c = warm * (4e-3 * cos + 1e-4), warm * (4e-2 * cos + 1e-3)
  key = jax.random.fold_in(key, step)
  t = time.monotonic()
  out, _ = e.compute_gradient_estimate(gradient_learner.WorkerWeights(theta, None, None), key, ready[spec][1])
  # whole episodes: fresh problems each time
  theta, ema, opt, ok = update(theta, ema, opt, out.grad, lr, lr_c, min(0.98, (1 + step) / (10 + step)))
  loss = float(out.mean_loss)
  dt = time.monotonic() - t
  spent[spec] = max(spent[spec], max([0.0] + [spent[s] for s in live]) - 5.0) + dt
  ready[spec] = (e, out.unroll_state, dt)
  step += 1; inner += spec[4] * UNROLL
  sums.setdefault(str(spec), []).append(loss)
  now = time.monotonic()
  if now - last_log > 5:
    say(what="train", step=step, inner=inner, f=round(f, 3), ok=bool(ok), loss={k: [round(float(np.mean(v)), 4), len(v)] for k, v in sums.items()})
    sums = {}; last_log = now
  if now - last_save > 45:
    save("latest"); last_save = now; n_snap += 1
save("theta")
leaves = jax.tree.leaves((theta, ema, opt)); np.savez(a.out / "resume.npz", *[np.asarray(l) for l in leaves], step=step, inner=inner)

coef = np.asarray(ema["forward" + COEFFICIENTS]["w"]).ravel()
say(what="end", step=step, inner=inner, coefficients=[round(float(c), 3) for c in coef])

log.flush(); import sys; sys.stdout.flush(); os._exit(0)
