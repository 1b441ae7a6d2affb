"""The embedded default data: characters (classes) drawn in many typefaces (examples)."""

import dataclasses
import hashlib
import string
import types

import gin
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unsup_rule.data.dataset import Dataset
from unsup_rule.data.drawn import DrawnSource
from unsup_rule.data.faces import Face, find_faces, fingerprint
from unsup_rule.errors import UnsupRuleError

CHARACTER_SETS = types.MappingProxyType(
  {
    "glyphs": string.digits + string.ascii_letters,
    "glyphs/letters": "ABCDEFGHIJ",
    "glyphs/mathematical": "+<=>~¬±×÷%",
    "glyphs/currency": "$¢£¥€ƒ₹₤₦₡",
  }
)

_DRAWN_SIZE = 96  # pixels per em before downsampling
_FILL = 0.92  # side of the largest glyph of a face, as a fraction of the image's
_SMALLEST = 0.75  # of the size jitter
_LARGEST_SHIFT = 0.06  # of the image's side
# A face is of use if, at 16x16, its mean pixel is this bright, its two most alike glyphs are this
# far apart (L2), and its small letters differ this much in shape from its capitals (median RMS).
_LEAST_INK = 18.0
_LEAST_DISTANCE = 64.0
_LEAST_CASE_DIFFERENCE = 40.0
_TWO_SHAPES = "abdeghnqrt"  # letters whose two cases differ by more than size


@gin.configurable(module="unsup_rule", denylist=["name", "split", "resolution"])
@dataclasses.dataclass(frozen=True)
class GlyphSource(DrawnSource):
  """Characters to draw.

  Attributes:
    name: a key of `CHARACTER_SETS`.
    split: "train", "valid" or "test": about 70, 15 and 15 percent of the typeface families.
    resolution: pixels a side, 8 to 32; 16 if None.
    variants: examples of each character and face; the first is drawn in full size and centred,
      the others vary in size and position.
    system_fonts: also draw the machine's own fonts; the data then differ between machines.
  """

  NAMES = tuple(CHARACTER_SETS)
  SIZES = range(8, 33)
  DEFAULT_SIZE = 16

  variants: int = 8
  system_fonts: bool = False

  def drawn_with(self) -> tuple[str, str]:
    """The drawing library, and the font files."""
    return Image.__version__, fingerprint(self.system_fonts)

  def render(self) -> Dataset:
    """Draws the dataset: white on black, [N, resolution, resolution, 1] uint8.

    Raises:
      UnsupRuleError: no usable face in the split.
    """
    characters = CHARACTER_SETS[self.name]
    images, labels = [], []
    for face in find_faces(self.system_fonts):
      if face.split != self.split or not face.characters.issuperset(characters):
        continue
      drawn = _draw_face(face, characters)
      if drawn is None:
        continue
      images.append(_downsample_face(face, drawn, self.size, self.variants))
      labels.append(np.repeat(np.arange(len(characters)), self.variants))
    if not images:
      raise UnsupRuleError(
        f"no installed typeface for data set {self.name!r}, split {self.split!r}: "
        "install more of them, e.g. `pip install fontpkg-lato fontpkg-lora fontpkg-roboto`"
      )
    return Dataset.build(
      self.name,
      self.split,
      np.concatenate(images)[..., None],
      np.concatenate(labels),
      characters,
      1 / 255,
    )


def _draw_face(face: Face, characters: str) -> list[Image.Image] | None:
  """Each character's ink, cropped, at a high resolution; None if the face is of no use.

  A face is of no use if it draws nothing for a character (a blank), nearly the same for two (a box
  for what it lacks, "l" for "I"), small capitals for small letters, or strokes too thin to see.
  """
  try:
    font = ImageFont.truetype(face.path, _DRAWN_SIZE, layout_engine=ImageFont.Layout.BASIC)
    if face.axes:
      font.set_variation_by_axes(list(face.axes))
  except OSError:
    return None
  drawn = []
  for character in characters:
    left, top, right, bottom = map(int, font.getbbox(character))
    canvas = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(canvas).text((2 - left, 2 - top), character, fill=255, font=font)
    ink = canvas.getbbox()
    if ink is None:
      return None
    drawn.append(canvas.crop(ink))
  return drawn if _is_usable(drawn, characters) else None


def _is_usable(drawn: list[Image.Image], characters: str) -> bool:
  largest = max(max(glyph.size) for glyph in drawn)
  small_NxP = np.stack([_place(glyph, largest, 16).ravel() for glyph in drawn]).astype(float)
  squares = (small_NxP**2).sum(1)
  distances = squares[:, None] + squares - 2 * small_NxP @ small_NxP.T
  np.fill_diagonal(distances, np.inf)
  if small_NxP.mean() < _LEAST_INK or distances.min() < _LEAST_DISTANCE**2:
    return False
  pairs = [(characters.find(c), characters.find(c.upper())) for c in _TWO_SHAPES]
  differences = [
    np.sqrt(((_shape(drawn[i]) - _shape(drawn[j])) ** 2).mean()) for i, j in pairs if min(i, j) >= 0
  ]
  return not differences or bool(np.median(differences) >= _LEAST_CASE_DIFFERENCE)


def _shape(glyph: Image.Image) -> np.ndarray:
  """The glyph at 16x16, whatever its size in the face."""
  return _place(glyph, max(glyph.size), 16).astype(float)


def _downsample_face(
  face: Face, drawn: list[Image.Image], resolution: int, variants: int
) -> np.ndarray:
  """uint8 [n_characters * variants, resolution, resolution], variants of a character adjacent."""
  seed = hashlib.sha256(f"{face.family}/{face.style}".encode()).digest()
  jitter = np.random.default_rng(list(seed)).random((len(drawn), variants, 3))
  size = _SMALLEST + (1 - _SMALLEST) * jitter[..., 0]
  shift = _LARGEST_SHIFT * (2 * jitter[..., 1:] - 1)
  size[:, 0], shift[:, 0] = 1, 0
  largest = max(max(glyph.size) for glyph in drawn)
  return np.stack(
    [
      _place(glyph, largest, resolution, size[i, v], *shift[i, v])
      for i, glyph in enumerate(drawn)
      for v in range(variants)
    ]
  )


def _place(
  glyph: Image.Image,
  largest: int,
  resolution: int,
  size: float = 1.0,
  shift_x: float = 0.0,
  shift_y: float = 0.0,
) -> np.ndarray:
  """Box-averages a glyph into a square image, centred but for the shift (fractions of the side).

  A glyph's side in the image goes with the square root of its side in the face: size still tells
  "o" from "O", yet small letters of a face with sweeping capitals remain legible.
  """
  width, height = glyph.size
  side = max(width, height)
  window = (side * largest) ** 0.5 / (_FILL * size)
  left = (width - window) / 2 - shift_x * window
  top = (height - window) / 2 - shift_y * window
  x, y = int(np.floor(left)), int(np.floor(top))
  edge = int(np.ceil(window)) + 2
  padded = glyph.crop((x, y, x + edge, y + edge))
  box = (left - x, top - y, left - x + window, top - y + window)
  return np.asarray(padded.resize((resolution, resolution), Image.Resampling.BOX, box=box))
