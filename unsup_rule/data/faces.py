"""Finds the typefaces to draw glyphs with, and says which split each belongs to."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import re
import string

import matplotlib
from fontTools import agl
from fontTools.ttLib import TTFont, TTLibError

from unsup_rule.data.drawn import SPLITS

_SPLIT_ENDS = (0.70, 0.85, 1.00)  # train, valid, test, as fractions of the typeface families
# Chosen so that matplotlib's own three families fill one split each, and the fractions hold well.
_SPLIT_SALT = "unsup_rule glyphs 239"
_WEIGHTS = (400.0, 700.0)  # taken from a variable face
_COMPUTER_MODERN = re.compile(r"cm[a-z]+\d+")
_ALPHANUMERIC = string.digits + string.ascii_letters


@dataclasses.dataclass(frozen=True)
class Face:
  """One style of one typeface.

  Attributes:
    path: the TrueType or OpenType file.
    family: key of the typeface family: faces of one family look alike and share a split.
    style: what tells the face from the others of its family.
    axes: one value for each axis of a variable font, empty for a static one.
    characters: what the face can draw.
  """

  path: pathlib.Path
  family: str
  style: str
  axes: tuple[float, ...]
  characters: frozenset[str]

  @property
  def split(self) -> str:
    """The split of the face's family: it depends on the family's name alone."""
    return family_split(self.family)


def family_split(family: str) -> str:
  """The split of a family, by a hash of its name, so that a new family never moves another."""
  digest = hashlib.sha256(f"{_SPLIT_SALT}/{family}".encode()).digest()
  position = int.from_bytes(digest[:8], "big") / 2**64
  return next(split for split, end in zip(SPLITS, _SPLIT_ENDS, strict=True) if position < end)


@functools.cache
def find_faces(system_fonts: bool = False) -> tuple[Face, ...]:
  """All text faces of the installation, sorted by family and style.

  They come from matplotlib's own files and from installed font packages (entry-point group
  `fontpkg.family`), so that the same packages give the same faces on every machine.

  Args:
    system_fonts: also take the machine's fonts.
  """
  faces = {}
  for path in _font_files(system_fonts):
    for face in _read_faces(path):
      faces.setdefault((face.family, face.style), face)
  return tuple(faces[key] for key in sorted(faces))


@functools.cache
def fingerprint(system_fonts: bool = False) -> str:
  """Changes with the names and contents of the files that `find_faces` reads."""
  digest = hashlib.sha256(_SPLIT_SALT.encode())
  for path in _font_files(system_fonts):
    digest.update(path.name.encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())
  return digest.hexdigest()


def _font_files(system_fonts: bool) -> list[pathlib.Path]:
  paths = sorted(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf"))
  packages = importlib.metadata.entry_points(group="fontpkg.family")
  for module in sorted({entry.module for entry in packages}):
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
      paths += sorted(pathlib.Path(folder, "files").glob("*.ttf"))
  if system_fonts:
    from matplotlib import font_manager  # Lists the machine's fonts when imported: slow.

    paths += sorted(map(pathlib.Path, font_manager.findSystemFonts()))
  return paths


def _read_faces(path: pathlib.Path) -> list[Face]:
  """The faces of a file; none if it cannot be read or encodes symbols in the place of letters."""
  try:
    with TTFont(path, lazy=True, fontNumber=0) as font:
      glyph_names = font.getBestCmap() or {}
      names = font["name"]
      family_name = names.getDebugName(16) or names.getDebugName(1) or path.stem
      style = f"{family_name} {names.getDebugName(17) or names.getDebugName(2) or ''}".strip()
      axes = list(font["fvar"].axes) if "fvar" in font else []
  except (OSError, TTLibError, KeyError, AssertionError):
    return []
  for character in _ALPHANUMERIC:
    # Glyph names that the Adobe list knows tell what a slot really draws, e.g. "braceleft" for "f".
    meaning = agl.toUnicode(glyph_names.get(ord(character), ""))
    if meaning not in ("", character):
      return []
  characters = frozenset(map(chr, glyph_names))
  key = _family_key(family_name)
  instances: list[tuple[dict[str, float], str]] = [({}, style)]
  for axis in axes:
    if axis.axisTag == "wght":
      weights = sorted({min(max(weight, axis.minValue), axis.maxValue) for weight in _WEIGHTS})
      instances = [({"wght": weight}, f"{style} {weight:g}") for weight in weights]
  return [
    Face(
      path,
      key,
      name,
      tuple(settings.get(a.axisTag) or a.defaultValue for a in axes),
      characters,
    )
    for settings, name in instances
  ]


def _family_key(family_name: str) -> str:
  """First word of the name: "DejaVu Sans" and "DejaVu Serif" are drawn alike and stay together."""
  word = family_name.split()[0].lower()
  return "computer modern" if _COMPUTER_MODERN.fullmatch(word) else word
