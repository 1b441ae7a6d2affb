"""The report of a training run, of `train` or `launch`: one self-contained HTML page."""

import dataclasses
import json
import pathlib

import jax
import numpy as np

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import pages
from unsup_rule.evaluation.figures import coefficients, meta_training
from unsup_rule.evaluation.figures.style import Drawn
from unsup_rule.meta import checkpoint, curve
from unsup_rule.meta.curve import Columns
from unsup_rule.weights import run_folder
from unsup_rule.weights.archive import Archive, digest

Facts = dict[str, str]
_COUNTS = ("step", "seconds", "dropped")  # Columns that are numbers in each row.
_TENTH = 10


def write(folder: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the page; nothing in the folder is changed but for that.

  Args:
    folder: of a run, complete or not.
    out: the page.

  Raises:
    UnsupRuleError: the folder holds no run, or one without an outer step; its curve is damaged; or
      the page cannot be written.
  """
  columns = _curve(folder)
  problems: list[str] = []
  rule = _rule(folder, problems)
  figures, absent = _figures(columns, rule)
  content = {
    "title": f"Training run {folder.resolve().name}",
    "facts": _facts(folder, columns, problems),
    "workers": _workers(folder / "status.json", problems),
    "rule": {} if rule is None else _about(rule),
    "losses": _losses(columns),
    "problems": problems,
    "figures": figures,
    "absent": absent,
    "config_text": _config(folder, problems),
  }
  storage.write_text(out, pages.render("run.html.jinja", content))


def _curve(folder: pathlib.Path) -> Columns:
  """The curve of a run with an outer step at least."""
  if not folder.is_dir():
    raise UnsupRuleError(f"there is no folder {folder}; give the --train_log_dir of a run")
  if not (folder / "curve.csv").exists():
    members = sorted(path.parent.name for path in folder.glob("member_*/curve.csv"))
    remedy = f"give that of a member: {', '.join(members)}" if members else (
      "give the --train_log_dir of `unsup-rule train` or `unsup-rule launch`"
    )  # fmt: skip
    raise UnsupRuleError(f"{folder} is no folder of a run, it has no curve.csv; {remedy}")
  columns = curve.read(folder)
  for name in curve.COLUMNS:
    if name not in columns or (name in _COUNTS and not np.isfinite(columns[name]).all()):
      raise UnsupRuleError(f"{folder}/curve.csv has no whole column {name}; restore it from a copy")
  if not len(columns["step"]):
    raise UnsupRuleError(f"the run in {folder} has taken no outer step yet; try again later")
  return columns


def _rule(folder: pathlib.Path, problems: list[str]) -> Archive | None:
  if not (folder / "rule.npz").exists():
    return None
  try:
    return run_folder.read(folder)
  except UnsupRuleError as error:
    problems.append(str(error))
    return None


def _figures(columns: Columns, rule: Archive | None) -> tuple[list[Drawn], list[str]]:
  """All figures there are data for, and sentences on the others."""
  newest = {} if rule is None else curve.coefficients(rule.theta)
  parts = [
    ([meta_training.meta_loss(columns)], ""),
    (meta_training.validation(columns), "Validation: no trainer.validation_fn has measured."),
    (meta_training.sources(columns), "Meta-loss by data set: there is one at most."),
    (coefficients.draw(columns, newest), coefficients.ABSENT),
    ([meta_training.gradient(columns)], ""),
  ]
  drawn = [figure for figures, _ in parts for figure in figures]
  return drawn, [text for figures, text in parts if not figures]


def _facts(folder: pathlib.Path, columns: Columns, problems: list[str]) -> Facts:
  """What the run is and has reached."""
  summary = _json(folder / "summary.json", problems)
  try:
    state = checkpoint.load_state(folder) or {}
  except UnsupRuleError as error:
    problems.append(str(error))
    state = {}
  step, seconds = int(columns["step"][-1]), float(columns["seconds"][-1])
  complete = summary.get("outer_steps") == step
  facts = {
    "outer steps": f"{step:,}" + ("" if complete else ", not complete"),
    "time of training": f"{_duration(seconds)}, {seconds / max(step, 1):.3g} s an outer step",
    "computed on": state.get("device", "not recorded by the version that trained it"),
    "meta-loss": "{:.4g} in the first tenth of the steps, {:.4g} in the last".format(
      *_ends(columns["loss"])
    ),
    "gradients dropped": f"{int(np.nansum(columns['dropped']))}, not finite or refused",
    "newest checkpoint": f"step {state['step']:,}" if state else "none that can be read",
  }
  return facts | (_held_out(summary) if complete else {})


def _held_out(summary: dict) -> Facts:
  """What `trainer.heldout_fn` measured, if there is one."""
  found = {}
  for when in ("before", "after"):
    accuracy, error = (summary.get(f"heldout_{n}_{when}") for n in ("accuracy", "standard_error"))
    if isinstance(accuracy, float):
      found[f"held-out accuracy {when}"] = f"{accuracy:.3f}" + (
        f" ± {error:.3f} (standard error)" if isinstance(error, float) else ""
      )
  return found


def _about(rule: Archive) -> Facts:
  """What rule is trained, and on what."""
  known = {
    "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(rule.theta)):,}",
    "data sets": ", ".join(rule.provenance.get("data_sets", ())) or "not named",
    "seed": rule.provenance.get("seed", "not recorded"),
    **dataclasses.asdict(rule.sizes),
    **dataclasses.asdict(rule.schedule),
    "SHA-256 of theta": digest(rule.theta),
  }
  return {name.replace("_", " "): str(value) for name, value in known.items()}


def _workers(path: pathlib.Path, problems: list[str]) -> Facts:
  """What `launch` knows of the processes of its run."""
  try:
    return _described(_json(path, problems))
  except storage.DAMAGE as error:
    problems.append(f"{path} is damaged ({error!r})")
    return {}


def _described(status: dict) -> Facts:
  workers = status.get("workers", {})
  if not workers:
    return {}
  hosts = len({worker.get("host") for worker in workers.values()})
  refused = {reason: count for reason, count in status["refused"].items() if count}
  running = status["state"] == "running"  # Once it has ended, the newest rate is none.
  return {
    "state": status["state"],
    "workers": f"{len(workers)} on {hosts} {'machine' if hosts == 1 else 'machines'}",
    "gradients used": f"{status['gradients']:,}, batches of {status['batch_size']}",
    **({"gradients a second": f"{status['gradients_per_second']:.2f}"} if running else {}),
    "staleness": f"mean {status['staleness_mean']:.2f}, largest {status['staleness_max']}, "
    f"bound {status['staleness_bound']}",
    "refused": ", ".join(f"{count} {reason}" for reason, count in refused.items()) or "none",
    "restarts": f"learner {status['learner_restarts']}, workers "
    f"{sum(worker['restarts'] for worker in workers.values())}",
  }


def _losses(columns: Columns) -> list[tuple[str, int, float, float]]:
  """Of each data set: how many steps saw it, mean meta-loss of their first and last tenth."""
  return [
    (name.removeprefix(curve.SOURCE_PREFIX), int(np.isfinite(values).sum()), *_ends(values))
    for name, values in columns.items()
    if name.startswith(curve.SOURCE_PREFIX)
  ]


def _ends(values: np.ndarray) -> tuple[float, float]:
  """Means of the first and the last tenth of those that are finite; NaN where none is."""
  finite = values[np.isfinite(values)]
  if not len(finite):
    return np.nan, np.nan
  count = -(-len(finite) // _TENTH)
  return float(finite[:count].mean()), float(finite[-count:].mean())


def _duration(seconds: float) -> str:
  hours, rest = divmod(round(seconds), 3600)
  return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _json(path: pathlib.Path, problems: list[str]) -> dict:
  try:
    return dict(json.loads(reading.text(path))) if path.exists() else {}
  except storage.DAMAGE as error:
    problems.append(f"{path} is damaged ({error!r})")
    return {}


def _config(folder: pathlib.Path, problems: list[str]) -> str:
  path = folder / "config.gin"
  try:
    return reading.text(path) if path.exists() else "not recorded"
  except storage.DAMAGE as error:
    problems.append(f"{path} is damaged ({error!r})")
    return ""
