"""Rules of the house, read from the source: floors, foreign modules left alone, types."""

import ast
import re
import sys
from collections.abc import Iterator

import pytest
from folders import ROOT

PACKAGE = ROOT / "unsup_rule"
# From the bottom; rooms of one floor do not know each other.
FLOORS = (
  {"errors", "prng", "reading"},
  {"extras", "hints"},
  {"storage", "locations"},
  {"machine"},
  {"rule"},
  {"probe"},
  {"weights", "data", "exports"},
  {"tasks", "reference", "compat"},
  {"features", "plugin", "transformation"},
  {"meta"},
  {"distributed", "evaluation"},
  {"cli"},
  {"__main__"},
)
CORE = {"errors", "locations", "prng", "reading", "storage", "rule", "probe", "weights", "features"}
CORE_NEEDS = {"jax", "numpy", "scipy", "sklearn", "tqdm"}  # scikit-learn brings scipy
# A loaded rule makes its optimizer, for who has the library; it says so where it does.
UPWARDS = {
  ("weights/pretrained.py", "plugin"),
}
MOST_ANY = 168
MOST_LINES_OF_COMPAT = 300
MOST_LINES_OF_A_MODULE = 400
MOST_LINES_OF_A_FUNCTION = 50  # without its docstring

_RANK = {room: rank for rank, rooms in enumerate(FLOORS) for room in rooms}


def _sources() -> Iterator[tuple[str, str, ast.Module]]:
  """Path below the package, room and syntax tree of each source of the house."""
  for path in sorted(PACKAGE.rglob("*.py")):
    relative = path.relative_to(PACKAGE)
    room = relative.with_suffix("").parts[0]
    if room != "__init__":
      yield str(relative), room, ast.parse(path.read_text(), str(path))


def _imported(tree: ast.Module) -> set[str]:
  """Full names of all that a source imports, inside functions too."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"relative import in line {node.lineno}"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
      found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
  return found


def _foreign_names(tree: ast.Module) -> set[str]:
  """Names that a source gives to modules, classes and functions that are not ours."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("unsup_rule"):
      found |= {alias.asname or alias.name for alias in node.names}
  return found


def _replacements(tree: ast.Module) -> list[int]:
  """Lines that change an attribute of something imported, or that could change any."""
  foreign = _foreign_names(tree)
  lines = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      if node.func.id in ("setattr", "delattr") and ast.unparse(node.args[0]) != "self":
        lines.append(node.lineno)
    elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
      if ast.unparse(node).split(".")[0] in foreign:
        lines.append(node.lineno)
    elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.modules", "unittest.mock"):
      lines.append(node.lineno)
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
      of = ast.unparse(node.value)
      if of.endswith("__dict__") or of.startswith(("vars(", "globals(")):
        lines.append(node.lineno)
  return lines


def test_rooms_import_from_below():
  upwards = {
    (path, other)
    for path, room, tree in _sources()
    for other in {n.split(".")[1] for n in _imported(tree) if n.startswith("unsup_rule.")} - {room}
    if other not in _RANK or _RANK[other] >= _RANK[room]
  }
  assert upwards <= UPWARDS


def test_the_core_knows_arrays_only():
  needs = {
    (path, name.split(".")[0])
    for path, room, tree in _sources()
    for name in _imported(tree)
    if room in CORE
  }
  known = sys.stdlib_module_names | CORE_NEEDS | {"unsup_rule"}
  assert not {need for need in needs if need[1] not in known}


def test_nothing_foreign_is_replaced_outside_compat():
  replacing = {path: _replacements(tree) for path, room, tree in _sources() if room != "compat"}
  assert not {path: lines for path, lines in replacing.items() if lines}


@pytest.mark.parametrize(
  "source",
  [
    "import jax\njax.jit = None",
    "from jax import lax as other\nother.map.inner = None",
    "def f():\n  from jax import lax\n  del lax.map",
    "setattr(anything, 'name', None)",
    "import sys\nsys.modules['courier'] = None",
    "vars(module)['name'] = None",
    "module.__dict__['name'] = None",
  ],
)
def test_replacements_are_found(source):
  assert _replacements(ast.parse(source))


def test_little_is_untyped():
  texts = [path.read_text() for path in PACKAGE.rglob("*.py")]
  assert sum(len(re.findall(r"\bAny\b", text)) for text in texts) <= MOST_ANY


def test_compat_is_small():
  texts = [path.read_text() for path in (PACKAGE / "compat").rglob("*.py")]
  assert sum(len(text.splitlines()) for text in texts) <= MOST_LINES_OF_COMPAT


def test_modules_and_functions_are_short():
  too_long = []
  for path, _, tree in _sources():
    lines = len((PACKAGE / path).read_text().splitlines())
    too_long += [path] if lines > MOST_LINES_OF_A_MODULE else []
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        documented = len((ast.get_docstring(node, clean=False) or "").splitlines())
        if node.end_lineno - node.lineno + 1 - documented > MOST_LINES_OF_A_FUNCTION:
          too_long.append(f"{path}: {node.name}")
  assert not too_long
