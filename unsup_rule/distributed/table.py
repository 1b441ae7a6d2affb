"""The state of a run as a table of text."""

import time
from collections.abc import Mapping, Sequence

from unsup_rule.distributed.statistics import Report

_SHOWN_WORKERS = 16
_SILENT_SECONDS = 60.0


def render(report: Report) -> str:
  """Returns lines that show a report of a learner.

  Args:
    report: as `status.json` holds it.
  """
  if "step" not in report:
    return f"{report.get('state', 'starting')}: no report from the learner yet"
  workers = report.get("workers", {})
  loss = report.get("meta_loss")
  lines = [
    f"{report.get('state', 'running')}: update {report['step']}/{report.get('num_steps', '?')}"
    f" after {_duration(report.get('seconds', 0))}, meta-loss "
    + ("-" if loss is None else f"{loss:.4g}"),
    f"gradients  {report['gradients']} used, {report['gradients_per_second']:.2f}/s, "
    f"{report['waiting']} waiting (batch {report['batch_size']})",
    f"staleness  mean {report['staleness_mean']:.2f}, largest {report['staleness_max']}, "
    f"bound {report['staleness_bound']}",
    "refused    "
    + (", ".join(f"{n} {reason}" for reason, n in report["refused"].items() if n) or "none"),
    f"restarts   learner {report['learner_restarts']}, workers "
    f"{sum(worker['restarts'] for worker in workers.values())}; last checkpoint at update "
    f"{report.get('saved_step', 0)}",
    f"memory     learner at most {report.get('peak_memory_bytes', 0) / 2**20:.0f} MiB",
  ]
  if report.get("refused_updates"):
    lines.append(f"updates    {report['refused_updates']} not made: theta would not be finite")
  if report.get("problem"):
    lines.append(f"PROBLEM    {report['problem']}")
  if losses := report.get("losses"):
    lines += ["", f"{'data set':<28}{'meta-loss':>10}"]
    lines += [f"{name:<28}{value:>10.4f}" for name, value in sorted(losses.items())]
  if workers:
    lines += ["", *_worker_lines(workers)]
  return "\n".join(lines)


def render_members(members: Sequence[Report]) -> str:
  """Returns lines that show a population.

  Args:
    members: as the controller reports them.
  """
  lines = [f"{'member':>6}{'update':>9}{'fitness':>10}  {'generation':<10}bindings"]
  for index, member in enumerate(members):
    fitness = member["fitness"]
    lines.append(
      f"{index:>6}{member['step']:>9}{'-' if fitness is None else format(fitness, '.4f'):>10}  "
      f"{member['generation'][:8]:<10}{', '.join(member['bindings'])}"
    )
  return "\n".join(lines)


def _worker_lines(workers: Mapping[str, Report]) -> list[str]:
  """The first workers one by one, and the rates of all."""
  lines = [f"{'worker':>6}  {'host':<18}{'core':>4}{'gradients':>11}{'1/s':>8}{'refused':>9}"
           f"{'restarts':>10}  silent"]  # fmt: skip
  for index, worker in list(workers.items())[:_SHOWN_WORKERS]:
    silent = worker["silent_seconds"]
    core = worker.get("core")
    lines.append(
      f"{index:>6}  {str(worker.get('host', '?'))[:17]:<18}{'-' if core is None else core:>4}"
      f"{worker['gradients']:>11}{worker['gradients_per_second']:>8.2f}{worker['refused']:>9}"
      f"{worker['restarts']:>10}  {silent:.0f} s{' !' if silent > _SILENT_SECONDS else ''}"
    )
  if len(workers) > _SHOWN_WORKERS:
    rates = sorted(worker["gradients_per_second"] for worker in workers.values())
    lines.append(
      f"   and {len(workers) - _SHOWN_WORKERS} more; rates of all from {rates[0]:.2f} to "
      f"{rates[-1]:.2f}, median {rates[len(rates) // 2]:.2f}"
    )
  return lines


def age(report: Report) -> str:
  """Says how old a report is."""
  return f"as of {_duration(max(time.time() - report.get('time', 0), 0))} ago"


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}"
