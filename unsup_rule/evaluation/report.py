"""The report of an evaluation: one self-contained HTML page, and one in Markdown for docs/."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from unsup_rule import reading, storage
from unsup_rule.errors import UnsupRuleError
from unsup_rule.evaluation import claims, comparison, pages, summary
from unsup_rule.evaluation.comparison import Difference, Value
from unsup_rule.evaluation.figures import fewshot, inside, layers, meta_training, steps, sweeps
from unsup_rule.evaluation.figures.style import Drawn
from unsup_rule.evaluation.methods import RULES
from unsup_rule.evaluation.store import Row
from unsup_rule.evaluation.suite import Suite
from unsup_rule.tasks.fewshot import HEADLINE, PROBE_NAMES

_BEGIN, _END = "<!-- results -->", "<!-- /results -->"
_SHORT = 4  # data sets of the table for other pages
_PAPER = ("untrained", "vae_best", "supervised", "pca")
_VARIED = ("width", "hidden_layers", "nonlinearity", "batch_size")
# Figures of the Markdown page; the HTML page has all.
_SHOWN = (
  *("few_shot", "layers", "sweep_width", "sweep_hidden_layers", "sweep_nonlinearity"),
  *("steps", "meta_training"),
)


def write(
  folder: pathlib.Path,
  suite: Suite,
  rows: Sequence[Row],
  config_text: str,
  rule_folder: str | os.PathLike | None,
) -> pathlib.Path:
  """Writes `figures/*.png`, `report.html`, `results.md` and `table.md`; returns the first page."""
  figures, absent = _figures(folder, rows, rule_folder)
  for figure in figures:
    storage.write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)
  content = {
    **_content(suite, rows),
    "figures": figures,
    "absent": absent,
    "config_text": config_text,
    "figure_folder": "figures",
  }
  path = folder / "report.html"
  storage.write_text(path, pages.render("report.html.jinja", content))
  storage.write_text(folder / "results.md", pages.render("results.md.jinja", content))
  table = summary.headline(rows)
  storage.write_text(folder / "table.md", "" if table is None else _short_table(table))
  return path


def copy_page(folder: pathlib.Path, page: pathlib.Path) -> None:
  """Puts `results.md` at `page`, and the figures it shows into a folder of that name beside it."""
  text = (folder / "results.md").read_text()
  for name in _SHOWN:
    figure = folder / "figures" / f"{name}.png"
    if f"(figures/{name}.png)" in text:
      storage.write_bytes(page.with_suffix("") / figure.name, figure.read_bytes())
  storage.write_text(page, text.replace("(figures/", f"({page.stem}/"))


def copy_table(folder: pathlib.Path, page: pathlib.Path) -> None:
  """Puts `table.md` between the marks <!-- results --> and <!-- /results --> of a page.

  Raises:
    UnsupRuleError: the page cannot be read, or has no such marks.
  """
  before, after = check_table(page)
  table = (folder / "table.md").read_text()
  storage.write_text(page, f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def check_table(page: pathlib.Path) -> tuple[str, str]:
  """What is before and behind the place of the table on a page.

  Raises:
    UnsupRuleError: the page cannot be read, or has no marks.
  """
  try:
    before, _, rest = reading.text(page).partition(_BEGIN)
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
    raise UnsupRuleError(f"cannot read {page}: {reason}; give a page with --table") from error
  _, end, after = rest.partition(_END)
  if not end:
    raise UnsupRuleError(f"{page} has no {_BEGIN} and {_END}; put them where the table is to be")
  return before, after


def _short_table(table: summary.Headline) -> str:
  """The first data sets; the rule, the strongest rival of each, and what the paper compares."""
  data = table.data[:_SHORT]
  strongest = {label: table.strongest(label) for label in data}
  chosen = [
    line
    for line in table.lines
    if line.is_rule or line in strongest.values() or line.method in _PAPER
  ]
  named = "; ".join(
    f"{line.label} on {label} ({pages.value(line.values[label])})"
    for label, line in strongest.items()
  )
  return f"{markdown_table(data, chosen)}\n\nThe strongest rivals: {named}."


def _figures(
  folder: pathlib.Path, rows: Sequence[Row], rule_folder: str | os.PathLike | None
) -> tuple[list[Drawn], list[str]]:
  """All figures there are data for, and sentences on the others."""
  parts = [
    (fewshot.draw(rows), fewshot.ABSENT),
    (layers.draw(rows), layers.ABSENT),
    (steps.draw(rows), steps.ABSENT),
    (sweeps.draw(rows), sweeps.ABSENT),
    (inside.draw(rows, folder), inside.ABSENT),
    (meta_training.draw(rule_folder), meta_training.ABSENT),
  ]
  drawn = [figure for figures, _ in parts for figure in figures]
  return drawn, [text for figures, text in parts if not figures]


def _content(suite: Suite, rows: Sequence[Row]) -> dict[str, object]:
  """What both templates show, but for figures."""
  table = summary.headline(rows)
  found = None if table is None else summary.verdicts(table)
  failed = [row for row in rows if row["status"] != "ok"]
  return {
    "title": suite.title,
    "about": suite.about,
    "n_cells": len(rows),
    "n_failed": len(failed),
    "protocol": _protocol(rows, table),
    "failed": [
      (_heading(row, rows, comparison.method_label(row)), row["reason"]) for row in failed
    ],
    "table": table,
    "advice": [] if table is None else summary.advice(table),
    "headline_note": "" if table is None else _headline_note(table),
    "headline_table": "" if table is None else markdown_table(table.data, table.lines),
    "references": [] if table is None else table.references,
    "reference_table": "" if table is None else markdown_table(table.data, table.references),
    "compared": "" if table is None or table.rule is None else table.rule.label,
    "wins": "" if found is None else _sentences(found.wins, "than"),
    "losses": "" if found is None else _sentences(found.losses, "than"),
    "levels": "" if found is None else _levels(found.level),
    "claims": claims.claims(rows),
    "tables": _tables(rows),
    "probes": list(PROBE_NAMES.values()),
    "shown": _SHOWN,
    "provenance": _provenance(rows),
    "splits": _splits(rows),
  }


def _protocol(rows: Sequence[Row], table: summary.Headline | None) -> str:
  largest = max(rows, key=comparison.n_seeds)["identity"]
  identity = largest if table is None else table.identity
  has_more = largest["seeds"] > identity["seeds"]
  more = "; small differences that a claim rests on: more" if has_more else ""
  return (
    f"Each number is a mean over {identity['seeds']} base models (sweeps, and what takes longest: "
    f"fewer{more}), each with its own initial weights and order of the inputs, of "
    f"{identity['draws']} draws of {identity['examples_per_class']} labelled examples a class from "
    "the test split, which fit a probe, and as many others, which it predicts. Nothing but inputs "
    "of the train split is seen before, unless a method says so. ± is one standard error over "
    "base models."
  )


def _headline_note(table: summary.Headline) -> str:
  identity = table.identity
  return (
    f"Base model of {identity['hidden_layers']} x {identity['width']} + {identity['n_outputs']} "
    f"units; {PROBE_NAMES[HEADLINE]} on the labelled examples of each draw. The rule after its "
    "last step, the others at the step that is best on draws of the train split."
  )


def markdown_table(data: Sequence[str], lines: Sequence[summary.Line]) -> str:
  """Accuracies, the best of a data set in bold."""
  best = {
    label: max((line.values[label].mean for line in lines if label in line.values), default=0)
    for label in data
  }
  text = ["| | " + " | ".join(data) + " |", "|---" * (len(data) + 1) + "|"]
  for line in lines:
    cells = []
    for label in data:
      cell = pages.value(line.values[label]).replace("0.", ".") if label in line.values else "–"
      top = label in line.values and line.values[label].mean == best[label]
      cells.append(f"**{cell}**" if top else cell)
    name = f"**{line.label}**" if line.is_rule else line.label
    text.append(f"| {name} | " + " | ".join(cells) + " |")
  return "\n".join(text)


def _sentences(found: Sequence[tuple[str, str, Difference]], than: str) -> str:
  """A line for each data set, in Markdown."""
  by_data: dict[str, list[str]] = {}
  for label, method, difference in found:
    by_data.setdefault(label, []).append(f"{method} ({difference.mean:+.3f})")
  lines = [f"- {label}: {than} {', '.join(methods)}" for label, methods in by_data.items()]
  return "\n".join(lines) or "Nowhere by more than two standard errors."


def _levels(found: Sequence[tuple[str, str, Difference]]) -> str:
  if not found:
    return ""
  return f"No sure difference (under two standard errors) in {len(found)} comparisons."


@dataclasses.dataclass(frozen=True)
class _TableLine:
  """A method in the table of one setting."""

  label: str
  is_rule: bool
  step: int
  values: list[Value | None]
  best: Value
  difference: Difference | None


def _tables(rows: Sequence[Row]) -> list[tuple[str, list[_TableLine]]]:
  """Each setting by itself: a heading, and the methods by accuracy."""
  found = []
  for group in comparison.tables(rows).values():
    rule = comparison.rule_of(group)
    mine = None if rule is None else comparison.last(rule, HEADLINE)
    lines = []
    for row in sorted(group, key=lambda row: -comparison.reported(row).mean):
      best = comparison.best(row, HEADLINE)
      assert best is not None  # Every method has features.
      lines.append(
        _TableLine(
          comparison.method_label(row),
          row["method"] in RULES,
          comparison.reported(row).step,
          [comparison.last(row, probe) for probe in PROBE_NAMES],
          best,
          None if mine is None or row is rule else comparison.difference(mine, best),
        )
      )
    found.append((_heading(group[0], rows), lines))
  return found


def _heading(row: Row, rows: Sequence[Row], more: str = "") -> str:
  """Data set, and the settings in which rows differ."""
  differ = [n for n in _VARIED if len({str(other["identity"][n]) for other in rows}) > 1]
  varied = [f"{name.replace('_', ' ')} {row['identity'][name]}" for name in differ]
  return ", ".join([comparison.data_label(row), *([more] if more else []), *varied])


def _provenance(rows: Sequence[Row]) -> list[dict[str, object]]:
  """What numbers depend on; the full account of every row is in results.csv."""
  kinds: dict[str, list[Row]] = {}
  for row in rows:
    kinds.setdefault(str(sorted(row["provenance"].items())), []).append(row)
  found = []
  for group in kinds.values():
    facts = {
      "cells": len(group),
      "processor seconds": f"{sum(row['cpu_seconds'] for row in group):.0f}",
      **group[0]["provenance"],
    }
    facts["theta_sha256"] = facts["theta_sha256"] or "none, not the rule"
    found.append(facts)
  return found


def _splits(rows: Sequence[Row]) -> list[tuple[str, str, str, int]]:
  found = {}
  for row in rows:
    data, seed = row["identity"]["data"], row["identity"]["seed"]
    found[comparison.data_label(row), data["train_split"], data["test_split"], seed] = None
  return list(found)
