"""One self-contained HTML page with the tables and figures of an evaluation."""

import base64
import html
import os
import pathlib
from collections.abc import Iterable, Sequence

from unsup_rule import storage
from unsup_rule.evaluation import comparison
from unsup_rule.evaluation.figures import fewshot, inside, meta_training, steps, sweeps
from unsup_rule.evaluation.figures.style import Drawn
from unsup_rule.evaluation.store import Row
from unsup_rule.evaluation.suite import Suite
from unsup_rule.tasks.fewshot import HEADLINE, PROBE_NAMES

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #444; max-width: 50rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.5rem 0 1.5rem; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; border-bottom: 1px solid #eee; }
th { border-bottom: 1px solid #999; vertical-align: bottom; }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
tr.rule { font-weight: 600; background: #fff4ec; }
.better { color: #006b3c; } .worse, .failed { color: #b00020; } .level { color: #555; }
small, .note { color: #555; } pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; }
.wide { overflow-x: auto; }
"""


def write(
  folder: pathlib.Path,
  suite: Suite,
  rows: Sequence[Row],
  config_text: str,
  rule_folder: str | os.PathLike | None,
) -> pathlib.Path:
  """Writes `figures/*.png` and `report.html`; returns the page's path."""
  drawn, absent = _figures(folder, rows, rule_folder)
  for figure in drawn:
    storage.write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)
  body = [
    f"<h1>{html.escape(suite.title)}</h1>",
    f"<p>{html.escape(suite.about)}</p>" if suite.about else "",
    _summary(rows),
    *_failures(rows),
    "<h2>Where the rule wins and loses</h2>",
    *_verdicts(rows),
    "<h2>Few-shot tables</h2>",
    *_tables(rows),
    "<h2>Figures</h2>",
    *map(_figure, drawn),
    *(f'<p class="note">Left out. {html.escape(text)}</p>' for text in absent),
    "<h2>Where the numbers come from</h2>",
    *_provenance(rows, config_text),
  ]
  page = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(suite.title)}</title><style>{_STYLE}</style></head><body>\n"
    + "\n".join(body)
    + "\n</body></html>\n"
  )
  path = folder / "report.html"
  storage.write_text(path, page)
  return path


def _figures(
  folder: pathlib.Path, rows: Sequence[Row], rule_folder: str | os.PathLike | None
) -> tuple[list[Drawn], list[str]]:
  """All figures there are data for, and sentences on the others."""
  parts = [
    (fewshot.draw(rows), fewshot.ABSENT),
    (steps.draw(rows), steps.ABSENT),
    (sweeps.draw(rows), sweeps.ABSENT),
    (inside.draw(rows, folder), inside.ABSENT),
    (meta_training.draw(rule_folder), meta_training.ABSENT),
  ]
  drawn = [figure for figures, _ in parts for figure in figures]
  return drawn, [text for figures, text in parts if not figures]


def _summary(rows: Sequence[Row]) -> str:
  first = rows[0]["identity"]
  return (
    f"<p>Each number is a mean over {first['seeds']} base models, each with its own initial weights"
    f" and order of the inputs, of {first['draws']} draws of {first['examples_per_class']} labelled"
    " examples a class from the test split, which fit a probe, and as many others, which it "
    "predicts. Nothing but inputs of the train split is seen before, unless a method says so. "
    "± is one standard error over base models.</p>"
  )


def _failures(rows: Sequence[Row]) -> Iterable[str]:
  failed = [row for row in rows if row["status"] != "ok"]
  if failed:
    yield '<h2 class="failed">Failed cells</h2><ul>'
    for row in failed:
      label = f"{comparison.data_label(row)}, {comparison.method_label(row)}{_varied(row, rows)}"
      yield f"<li><b>{html.escape(label)}</b>: {html.escape(row['reason'])}</li>"
    yield "</ul>"


def _varied(row: Row, rows: Sequence[Row]) -> str:
  """The settings of a row in which rows differ, for headings."""
  names = ("width", "hidden_layers", "nonlinearity", "batch_size")
  differ = [n for n in names if len({str(other["identity"][n]) for other in rows}) > 1]
  return "".join(f", {n.replace('_', ' ')} {row['identity'][n]}" for n in differ)


def _verdicts(rows: Sequence[Row]) -> Iterable[str]:
  """Names the baselines that the rule beats, and those that beat it, in each setting."""
  groups = [g for g in comparison.tables(rows).values() if comparison.rule_of(g) is not None]
  if not groups:
    yield "<p>The rule was not measured; name its folder with <code>--rule</code>.</p>"
    return
  yield (
    "<p>The rule after its last step against each baseline at the baseline's best step, by the "
    f"same probe, paired by seed. A difference counts from {comparison.SURE:g} standard errors "
    "on.</p>"
    '<div class="wide"><table><tr><th>setting</th><th>probe</th><th>the rule is better than</th>'
    "<th>no sure difference</th><th>the rule is <b>worse</b> than</th></tr>"
  )
  for group in groups:
    heading = html.escape(comparison.data_label(group[0]) + _varied(group[0], rows))
    for probe in ("cv", "ridge", "logistic"):
      by_verdict: dict[str, list[str]] = {"better": [], "level": [], "worse": []}
      for row, found in _differences(group, probe):
        text = f"{comparison.method_label(row)} ({found.mean:+.3f})"
        by_verdict[found.verdict].append(html.escape(text))
      cells = "".join(
        f'<td class="{verdict}">{"<br>".join(names) or "&ndash;"}</td>'
        for verdict, names in by_verdict.items()
      )
      yield f"<tr><td>{heading}</td><td>{probe}</td>{cells}</tr>"
  yield "</table></div>"


def _differences(group: Sequence[Row], probe: str) -> Iterable[tuple[Row, comparison.Difference]]:
  rule = comparison.rule_of(group)
  mine = None if rule is None else comparison.last(rule, probe)
  for row in group:
    value = comparison.best(row, probe)
    if row is not rule and mine is not None and value is not None:
      yield row, comparison.difference(mine, value)


def _tables(rows: Sequence[Row]) -> Iterable[str]:
  yield (
    '<p class="note">Accuracy after the last step, and at the best of the measured steps (chosen '
    "on these very draws, so a little too high). The last column is the rule's last step minus "
    "the method's best, by the cross-validated ridge, paired by seed.</p>"
  )
  for group in comparison.tables(rows).values():
    heading = comparison.data_label(group[0]) + _varied(group[0], rows)
    differences = {row["key"]: found for row, found in _differences(group, HEADLINE)}
    yield f"<h3>{html.escape(heading)}</h3>"
    heads = [*PROBE_NAMES.values(), "best step", "step", "rule minus method"]
    yield (
      '<div class="wide"><table><tr><th>method</th><th class="n">steps</th>'
      + "".join(f'<th class="n">{head}</th>' for head in heads)
      + "<th></th></tr>"
    )
    for row in sorted(group, key=lambda row: -comparison.reported(row).mean):
      yield _table_row(row, differences.get(row["key"]))
    yield "</table></div>"


def _table_row(row: Row, found: comparison.Difference | None) -> str:
  cells = [str(comparison.reported(row).step)]
  cells += [_value(comparison.last(row, probe)) for probe in PROBE_NAMES]
  best = comparison.best(row, HEADLINE)
  cells += [_value(best), "" if best is None else str(best.step)]
  cells.append("" if found is None else f"{found.mean:+.3f} ± {found.error:.3f}")
  verdict = "" if found is None else f'<td class="{found.verdict}">{_WORDS[found.verdict]}</td>'
  name = html.escape(comparison.method_label(row))
  return (
    f'<tr class="{"rule" if row["method"] == "rule" else ""}">'
    f"<td>{name}<br><small>{html.escape(row['about'])}</small></td>"
    + "".join(f'<td class="n">{cell}</td>' for cell in cells)
    + (verdict or "<td></td>")
    + "</tr>"
  )


_WORDS = {"better": "rule better", "worse": "rule worse", "level": "no sure difference"}


def _value(value: comparison.Value | None) -> str:
  return "&ndash;" if value is None else f"{value.mean:.3f} ± {value.error:.3f}"


def _figure(figure: Drawn) -> str:
  data = base64.b64encode(figure.png).decode()
  title, caption = html.escape(figure.title), html.escape(figure.caption)
  return (
    f'<figure><h3>{title}</h3><img alt="{title}" src="data:image/png;base64,{data}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _provenance(rows: Sequence[Row], config_text: str) -> Iterable[str]:
  """What each number depends on; the full account of every row is in results.csv."""
  kinds: dict[str, list[Row]] = {}
  for row in rows:
    kinds.setdefault(str(sorted(row["provenance"].items())), []).append(row)
  for group in kinds.values():
    seconds = sum(row["seconds"] for row in group)
    facts = {"cells": len(group), "seconds": f"{seconds:.0f}", **group[0]["provenance"]}
    facts["theta_sha256"] = facts["theta_sha256"] or "no rule given"
    yield "<table>"
    for name, value in facts.items():
      yield f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
    yield "</table>"
  data = {
    (
      comparison.data_label(row),
      row["identity"]["data"]["train_split"],
      row["identity"]["data"]["test_split"],
      row["identity"]["seed"],
    ): None
    for row in rows
  }
  yield "<table><tr><th>data</th><th>trained on</th><th>tested on</th><th>seed</th></tr>"
  for values in data:
    yield "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in values) + "</tr>"
  yield "</table><p>Every number with its settings, seeds, seconds and machine: results.csv.</p>"
  yield f"<details><summary>Configuration</summary><pre>{html.escape(config_text)}</pre></details>"
