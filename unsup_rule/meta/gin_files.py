"""Gin configuration, strict: a name that nothing knows is an error that offers the nearest match.

The flags are those of the library's own entry points (`--config_file`, `--gin_bindings`,
`--gin_import`), which skip unknown names in silence. Scopes and macros are gin's own.
"""

import contextlib
import contextvars
import glob
import importlib
import inspect
import io
import os
import pathlib
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from unsup_rule import locations
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import gin_values

# Imported before any gin file is read, so that their configurables are registered.
REGISTERED_MODULES = (
  "learned_optimization.learned_optimizers.mlp_lopt",
  "learned_optimization.learned_optimizers.nn_adam",
  "learned_optimization.outer_train",
  "learned_optimization.outer_trainers.truncated_es",
  "learned_optimization.outer_trainers.truncated_grad",
  "learned_optimization.outer_trainers.truncated_pes",
  "learned_optimization.outer_trainers.truncation_schedule",
  "learned_optimization.tasks.quadratics",
  "unsup_rule.meta.estimators",
  "unsup_rule.data.sets",
  "unsup_rule.distributed.population",
  "unsup_rule.probe",
  "unsup_rule.plugin.rule",
  "unsup_rule.plugin.distribution",
  "unsup_rule.plugin.lengths",
  "unsup_rule.plugin.task",
  "unsup_rule.plugin.adam",
  "unsup_rule.meta.heldout",
  "unsup_rule.meta.options",
)

# The registry and the bindings have no public interface; a type checker knows them by halves.
_GIN: Any = gin_config
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_INCLUDE = re.compile(r"""^(\s*include\s+)(['"])(.+?)\2""")
_OURS = ("unsup_rule", "learned_optimization")  # what a gin file may import unasked
_GIN_ITSELF = "__gin__"  # Its dynamic registration reaches whatever a module has imported.
_may_import: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar(
  "may_import", default=frozenset()
)
_LOCATION = re.compile(r"\n  In (?:file \"(?P<file>[^\"]*)\",|bindings string) line (?P<line>\d+)")
_REQUIRED = re.compile(r"Required bindings for `(\S+)` not provided in config: \[(.*)\]")
_MISSING = re.compile(
  r"missing \d+ required .*argument.*\n  No values supplied by Gin or caller for arguments: "
  r"\[(.*)\][\s\S]*?In call to configurable '(\S+)'"
)
# Marks a path that our reader, not gin's, opens: only ours resolves includes as documented below.
_SCHEME = "unsup-rule:"
_TEXT = "config.gin"  # What a configuration that came as text is called.
_PARSE_ERRORS = (
  ValueError,
  TypeError,
  SyntaxError,
  ImportError,
  OSError,
  RuntimeError,
  AttributeError,
  NameError,
  tokenize.TokenError,
)


def parse(
  config_files: Sequence[str] = (),
  bindings: Sequence[str] = (),
  imports: Sequence[str] = (),
) -> str:
  """Reads gin files, then bindings, into gin's global configuration, and locks it.

  A path, of a file or in an `include`, is looked for in the current folder, in the folder of the
  including file, and in the folder of gin files that comes with the package.

  Args:
    config_files: paths of gin files, later ones win.
    bindings: single bindings such as `run_train.num_steps=100`; they win over files.
    imports: modules to import first; `package.*` imports every module of a package.

  Returns:
    The configuration as text, one binding a line, for `config.gin`.

  Raises:
    UnsupRuleError: an unknown file, module, name or parameter, bad syntax, or a macro
      without a value.
  """
  _prepare(imports)
  for path in config_files:
    _guarded(gin.parse_config_file, path, _SCHEME + _find(path, None, path))
  for binding in bindings:
    _read_binding(binding)
  text = config_text()
  gin_values.check_types()
  _guarded(gin.finalize, "gin configuration")
  return text


def parse_text(text: str, imports: Sequence[str] = ()) -> None:
  """Reads what `parse` returned in another process, and locks it.

  Raises:
    UnsupRuleError: a name that this process does not know.
  """
  _prepare(imports)
  _guarded(gin.parse_config, _TEXT, _checked(text, _TEXT))
  _guarded(gin.finalize, "gin configuration")


def _prepare(imports: Sequence[str]) -> None:
  """Imports what configuration may name, and has gin read files by way of `_open`."""
  for module in REGISTERED_MODULES:
    importlib.import_module(module)
  for module in imports:
    if module.split(".")[0] != _GIN_ITSELF:
      _import(module)
  _may_import.set(frozenset(imports))
  # In front: a reader that gin brings along logs an error for each path that is not a file.
  if _READER not in _GIN._FILE_READERS:
    _GIN._FILE_READERS.insert(0, _READER)


def config_text() -> str:
  """Returns gin's current configuration, one binding a line, without the ruled comment lines.

  Macros are expanded: a reader that puts the whole file into a scope, as the library's
  `opt_from_checkpoint` does, would not find them.

  Raises:
    UnsupRuleError: a macro has no value.
  """
  # Wider than any binding: readers of config.gin prefix every line that has an equals sign.
  text = _GIN._config_str(gin_values.everything(), max_line_length=1_000_000)
  return "".join(f"{line}\n" for line in text.split("\n") if not line.startswith("# ==="))


def bind(bindings: Sequence[str]) -> None:
  """Reads bindings on top of what is bound, locked or not.

  Raises:
    UnsupRuleError: one that gin does not understand.
  """
  with gin.unlock_config():
    for binding in bindings:
      _read_binding(binding)
  gin_values.check_types()


@contextlib.contextmanager
def tried(bindings: Sequence[str]) -> Iterator[None]:
  """Has bindings in force within the context, and all as it was behind it."""
  before = {key: dict(parameters) for key, parameters in _GIN._CONFIG.items()}
  try:
    bind(bindings)
    yield
  finally:
    _GIN._CONFIG.clear()
    _GIN._CONFIG.update(before)


@contextlib.contextmanager
def naming_missing_values() -> Iterator[None]:
  """Turns gin's complaint about a configurable without a value it needs into one line."""
  try:
    yield
  except (RuntimeError, TypeError) as error:
    message = str(error)
    if found := _REQUIRED.match(message):
      lacking = f"{found[1]} needs a value for {found[2]}"
    elif found := _MISSING.search(message):
      lacking = f"{found[2]} needs a value for {found[1]}"
    else:
      raise
    raise UnsupRuleError(f"gin: {lacking}; add it to the gin file") from error


def _import(module: str) -> None:
  names = [module]
  try:
    if module.endswith(".*"):
      package = importlib.import_module(module[:-2])
      names = [
        f"{module[:-2]}.{pathlib.Path(path).stem}"
        for folder in package.__path__
        for path in sorted(glob.glob(f"{folder}/*.py"))
      ]
    for name in names:
      importlib.import_module(name)
  except (ImportError, AttributeError, ValueError, TypeError) as error:
    raise UnsupRuleError(
      f"cannot import '{module}' for gin: {_first_line(error)}; check the "
      "name, and that it is installed or on PYTHONPATH"
    ) from error


def _read_binding(binding: str) -> None:
  first = binding.partition("\n")[0]  # A message has one line.
  _guarded(gin.parse_config, f"binding '{first}'", _unquoted(binding))


def _unquoted(binding: str) -> str:
  """Takes the quotes off `name="@Reference()"`, as the library's own flag does."""
  key, _, value = binding.partition("=")
  value = value.strip()
  return f"{key} = {value[1:-1]}" if value.startswith('"@') else binding


def _find(path: str, including: str | None, where: str) -> str:
  """Returns the absolute path of a gin file, or raises with the nearest name in those folders."""
  path = str(locations.expanded(path))
  folders = [
    pathlib.Path.cwd(),
    *([pathlib.Path(including).parent] if including else []),
    _PACKAGE / "gin",
    _PACKAGE.parent / "gin",
  ]
  for folder in folders:
    if (folder / path).is_file():
      return str((folder / path).resolve())
    if path and (folder / path).is_dir():
      raise UnsupRuleError(f"gin file {str(path)!r} is a folder; give a file in it")
  wanted = pathlib.Path(path)
  names = {
    str(wanted.parent / found.name): None
    for folder in folders
    for found in sorted((folder / wanted.parent).glob("*.gin"))
    if found.is_file()
  }
  prefix = "" if including is None else f"{where}: "
  raise UnsupRuleError(f"{prefix}no gin file '{path}'{gin_values.nearest(path, names)}")


class _NamedText(io.StringIO):
  """Text with the file name that gin puts into its messages."""

  def __init__(self, text: str, name: str):
    super().__init__(text)
    self.name = name


def _open(path: str) -> _NamedText:
  """Opens a gin file with the paths of its includes made absolute."""
  real = path.removeprefix(_SCHEME)
  return _checked(pathlib.Path(real).read_text(encoding="utf-8-sig"), real)


def _checked(text: str, real: str) -> _NamedText:
  """A file's text for gin, unless it would run code that nobody asked for."""
  name = os.path.relpath(real)
  lines = text.splitlines()
  for statement in _imports_and_includes(text):
    index = statement.location.line_num - 1
    where = f"{name} line {index + 1}"
    if isinstance(statement, config_parser.ImportStatement):
      _check_import(statement, where)
    elif (match := _INCLUDE.match(lines[index])) and match[3] == statement.filename:
      found = _find(match[3], real, where)
      lines[index] = f"{match[1]}{_SCHEME + found!r}{lines[index][match.end() :]}"
    else:
      raise UnsupRuleError(f"{where}: write an include and its path, in quotes, on one line")
  return _NamedText("\n".join(lines) + "\n", name)


class _Nothing(config_parser.ParserDelegate):
  """Has gin's parser look nothing up."""

  def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
    """Of `@name`."""

  def macro(self, macro_name: str) -> None:
    """Of `%name`."""


def _imports_and_includes(
  text: str,
) -> Iterator[config_parser.ImportStatement | config_parser.IncludeStatement]:
  """As gin's own parser finds them, up to where it stops: it carries out no more either."""
  wanted = (config_parser.ImportStatement, config_parser.IncludeStatement)
  with contextlib.suppress(*_PARSE_ERRORS):
    for statement in config_parser.ConfigParser(text, _Nothing()):
      if isinstance(statement, wanted):
        yield statement


def _check_import(statement: config_parser.ImportStatement, where: str) -> None:
  """Refuses a gin file that would run code which nobody asked for."""
  full, allowed = statement.module, {*_OURS, *_may_import.get()}
  if not any(full == one or full.startswith(f"{one.removesuffix('.*')}.") for one in allowed):
    module = full.rpartition(".")[0] if statement.is_from else full
    raise UnsupRuleError(
      f"{where}: imports {module!r}, whose code would run; if you trust the file, allow it with "
      f"--gin_import={module}"
    )


_READER = (_open, lambda path: path.startswith(_SCHEME))


def _guarded(parser: Callable[..., object], source: str, *arguments: object) -> None:
  """Calls `parser`; what goes wrong becomes one line that names the place, or else `source`."""
  try:
    parser(*arguments)
  except RecursionError as error:  # Its message grew with every file, and is no use.
    raise UnsupRuleError(f"{source}: a file includes itself; remove that include") from error
  except _PARSE_ERRORS as error:
    raise UnsupRuleError(_explain(error, source)) from error


def _explain(error: Exception, source: str) -> str:
  """Turns gin's message of several lines into one that names the place and the nearest match."""
  message = str(error)
  if isinstance(error, UnsupRuleError):
    return _first_line(error)
  if isinstance(error, UnicodeDecodeError):
    return f"{source} is no text in UTF-8; save it as such"
  if isinstance(error, SyntaxError):
    place = f"{error.filename} line {error.lineno}" if error.filename else source
    return f"{place}: gin syntax: {error.msg}"
  location = _LOCATION.search(message)
  # The innermost place comes first; outer ones are the includes that led there.
  place = f"{location['file']} line {location['line']}" if location and location["file"] else source
  return f"{place}: {_first_line(error).rstrip('.')}{_hint(message)}"


def _hint(message: str) -> str:
  if match := re.match(r"No configurable matching (?:reference )?'@?([\w./]+?)(?:\(\))?'", message):
    name = match[1].rsplit("/", 1)[-1]
    known = {selector.rsplit(".", 1)[-1]: None for selector, _ in _GIN._REGISTRY.items()}
    hint = gin_values.nearest(name.rsplit(".", 1)[-1], known)
    return hint or "; check the spelling, or import its module with --gin_import"
  if match := re.match(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", message):
    wrapped = _GIN._REGISTRY.get_match(match[1]).wrapped
    parameters = [name for name in inspect.signature(wrapped).parameters if name != "self"]
    return gin_values.nearest(match[2], parameters) or f"; it has: {', '.join(parameters)}"
  return ""


def _first_line(error: BaseException) -> str:
  return str(error).split("\n", 1)[0]
