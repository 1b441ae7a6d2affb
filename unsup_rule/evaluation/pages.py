"""How reports become pages: the templates, and the words for numbers that they share."""

import base64

import jinja2

from unsup_rule.evaluation.comparison import Value


def render(template: str, content: dict[str, object]) -> str:
  """A page from a template in templates/; in HTML all that is shown is escaped."""
  html = template.endswith(".html.jinja")
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("unsup_rule.evaluation"),
    autoescape=html,
    undefined=jinja2.StrictUndefined,
    trim_blocks=not html,
    keep_trailing_newline=True,
  )
  environment.filters |= {
    "short": lambda number: f"{number:.3f}".removeprefix("0"),
    "time": lambda seconds: f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}",
    "value": value,
    "gap": lambda found: f"{found.mean:+.3f} ± {found.error:.3f}",
    "base64": lambda figure: base64.b64encode(figure.png).decode(),
  }
  return environment.get_template(template).render(content)


def value(measured: Value) -> str:
  """An accuracy and its standard error."""
  return f"{measured.mean:.3f} ± {measured.error:.3f}"
