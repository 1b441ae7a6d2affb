"""Theta's mixing coefficients, one for each term of the weight change, while it was learned."""

from collections.abc import Mapping

from unsup_rule.evaluation.figures import style
from unsup_rule.evaluation.figures.style import Drawn
from unsup_rule.meta.curve import COEFFICIENT_PREFIX, Columns
from unsup_rule.rule.theta import INITIAL_COEFFICIENT

ABSENT = "Theta's mixing coefficients: the run trains no rule, or left no rule.npz."
_ABOUT = (
  "What each term of the weight change (docs/rule.md, section 4.4) counts for before it is scaled: "
  f"all begin at {INITIAL_COEFFICIENT} unless the configuration says otherwise. "
)
_COLOURS = 10


def draw(columns: Columns, newest: Mapping[str, float]) -> list[Drawn]:
  """The coefficients over outer steps, or those of the newest checkpoint.

  Args:
    columns: of the curve.
    newest: coefficients as in the curve; none if what is trained is no rule.
  """
  names = [name for name in columns if name.startswith(COEFFICIENT_PREFIX)]
  if names:
    return [_over_steps(columns, names)]
  return [_bars(newest)] if newest else []


def _over_steps(columns: Columns, names: list[str]) -> Drawn:
  figure, axes = style.new_figure(1, 1, width=8.0, height=4.2)
  one = axes[0, 0]
  for name in sorted(names, key=lambda name: -columns[name][-1]):
    index = names.index(name)
    one.plot(
      columns["step"],
      columns[name],
      color=f"C{index % _COLOURS}",
      ls=("-", "--", ":")[index // _COLOURS],
      label=f"{name.removeprefix(COEFFICIENT_PREFIX)}  {columns[name][-1]:+.3f}",
    )
  one.axhline(0, color="black", lw=0.8)
  one.set(xlabel="outer step", ylabel="mixing coefficient")
  one.grid(alpha=0.3)
  figure.legend(loc="outside right center", frameon=False, title="term, last value")
  text = f"{_ABOUT}The legend is in the order of the right end."
  return Drawn("coefficients", "Theta's mixing coefficients", text, style.to_png(figure))


def _bars(newest: Mapping[str, float]) -> Drawn:
  figure, axes = style.new_figure(1, 1, width=8.0, height=0.8 + 0.24 * len(newest))
  one = axes[0, 0]
  labels = [name.removeprefix(COEFFICIENT_PREFIX) for name in newest]
  one.barh(labels, list(newest.values()), color=style.colour("rule"), height=0.7)
  one.axvline(INITIAL_COEFFICIENT, color="black", ls="--", lw=0.8)
  one.axvline(0, color="black", lw=0.8)
  one.invert_yaxis()
  one.set(xlabel="mixing coefficient; dashed: where it began")
  text = f"{_ABOUT}The curve of this run does not hold them: these are those of its rule.npz."
  return Drawn("coefficients", "Theta's mixing coefficients", text, style.to_png(figure))
