"""Hooks of mkdocs.yml: mathematics as MathML, and files of the checkout that pages link to.

Pages are written to be read in the checkout too, so they link to files outside docs/ by relative
paths and write formulas as GitHub does. The site carries a copy of each file that is linked to,
Markdown as a page, and shows formulas without scripts and without the network.
"""

import html
import os
import pathlib
import re

from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPIES = "checkout"  # folder of the site for files from outside docs/
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")
# With the punctuation that must stay beside it.
_FORMULA = re.compile(
  r'(\(?)<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\2>([.,;:)]*)', re.DOTALL
)
_CONVERTER = LatexToMathML()


def _home(source: str) -> pathlib.PurePath:
  """Folder, relative to the checkout, in which the page with this place in the site is kept."""
  path = pathlib.PurePath(source)
  inside = path.parts[0] == COPIES
  return path.relative_to(COPIES).parent if inside else ("docs" / path).parent


def _target(source: str, link: str) -> str | None:
  """The file of the checkout, outside docs/, that a page's link leads to, if it is one."""
  if re.match(r"[a-z]+:", link):
    return None
  path = os.path.normpath(_home(source) / link)
  if (ROOT / path).is_dir():
    path = os.path.join(path, "README.md")
  return path if (ROOT / path).is_file() else None


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the files outside docs/ that pages link to, and those that these link to."""
  waiting = [file for file in files if file.is_documentation_page()]
  while waiting:
    page = waiting.pop()
    for _, link, _ in _LINK.findall(page.content_string):
      target = _target(page.src_uri, link)
      if target is None or target.startswith("docs/"):
        continue
      uri = f"{COPIES}/{target}"
      if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
        if uri.endswith(".md"):
          waiting.append(files.get_file_from_path(uri))
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Leads links across the border of docs/ to the copies in the site, and back."""

  def replaced(match: re.Match[str]) -> str:
    opening, link, anchor = match.groups()
    target = _target(page.file.src_uri, link)
    if target is None:
      return match.group()
    outside = not target.startswith("docs/")
    place = f"{COPIES}/{target}" if outside else target.removeprefix("docs/")
    return (
      f"{opening}{os.path.relpath(place, os.path.dirname(page.file.src_uri) or '.')}{anchor or ''})"
    )

  return _LINK.sub(replaced, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Sets formulas, with their numbers at the right; what is no formula ends the build."""

  def formula(match: re.Match[str]) -> str:
    before, tag, text, after = match.groups()
    text = html.unescape(text).strip()
    if tag == "span":
      math = _CONVERTER.convert_with_local_state(text, displaystyle=False)
      return f'<span class="in-line">{before}{math}{after}</span>'
    if r"\begin{gather}" not in text:  # Which has the place for numbers.
      text = rf"\begin{{gather}} {text} \end{{gather}}"
    math = _CONVERTER.convert_with_local_state(text, displaystyle=True)
    return f'<div class="formula">{math}</div>'

  return _FORMULA.sub(formula, content)
