"""The pages that people read, with the commands and the Python examples on them."""

import re
import shlex

from folders import ROOT

PAGES = {
  str(path.relative_to(ROOT)): path.read_text()
  for path in (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "gin" / "README.md",
    ROOT / "launch" / "README.md",
  )
}
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_SETTING = re.compile(r"[A-Z_]+=")


def blocks(page: str, language: str) -> list[str]:
  """Fenced blocks of a page in a language; "" for those that hold commands."""
  return [text for _, name, text in _BLOCK.findall(PAGES[page]) if name == language]


def commands(page: str) -> list[list[str]]:
  """All commands of a page, split as a shell does, without variables set in front of them."""
  lines = "".join(blocks(page, "")).replace("\\\n", " ").splitlines()
  found = [shlex.split(line, comments=True) for line in lines]
  for command in found:
    while command and _SETTING.match(command[0]):
      command.pop(0)
  return [command for command in found if command]
