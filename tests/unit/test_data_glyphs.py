"""The embedded glyphs: which typefaces, which splits, and that they can be read."""

import hashlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys

import gin
import numpy as np
import pytest

from unsup_rule.data import Dataset, faces, glyphs, load
from unsup_rule.errors import UnsupRuleError

_BRIGHT = 128


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found() -> tuple[faces.Face, ...]:
  return faces.find_faces()


def _digest(dataset: Dataset) -> str:
  return hashlib.sha256(dataset.images.tobytes() + dataset.labels.tobytes()).hexdigest()


def test_families_of_one_foundry_share_a_split(found):
  by_style = {face.style: face.family for face in found}
  assert by_style["DejaVu Sans Bold"] == by_style["DejaVu Serif Book"] == "dejavu"
  assert by_style["cmr10 Regular"] == by_style["cmtt10 Regular"] == "computer modern"
  for family in {face.family for face in found}:
    assert len({face.split for face in found if face.family == family}) == 1


def test_splits_are_fixed_by_the_family_name_alone():
  assert faces.family_split("dejavu") == "train"
  assert faces.family_split("computer modern") == "valid"
  assert faces.family_split("stixgeneral") == "test"
  splits = [faces.family_split(f"family {i}") for i in range(2000)]
  for split, share in zip(faces.SPLITS, (0.70, 0.15, 0.15), strict=True):
    assert splits.count(split) / 2000 == pytest.approx(share, abs=0.03)


def test_symbol_faces_are_left_out(found):
  files = {face.path.name for face in found}
  assert not files & {"cmsy10.ttf", "cmex10.ttf"}
  for name in ("STIXSizOneSymReg.ttf", "DejaVuSansDisplay.ttf"):
    for face in found:
      assert face.path.name != name or not face.characters.issuperset("A1")


def test_faces_that_draw_boxes_or_capitals_for_small_letters_are_left_out(found):
  useless = [f for f in found if f.path.name in ("LastResortHE-Regular.ttf", "Cinzel[wght].ttf")]
  assert useless
  for face in useless:
    assert glyphs._draw_face(face, glyphs.CHARACTER_SETS["glyphs"]) is None


def test_variable_faces_give_a_regular_and_a_bold(found):
  regular, bold = [f for f in found if f.path.name == "Caveat[wght].ttf"]
  assert (regular.axes, bold.axes) == ((400.0,), (700.0,))
  ink = [
    np.mean([g.size[0] * np.asarray(g).mean() for g in glyphs._draw_face(face, "HIT") or ()])
    for face in (regular, bold)
  ]
  assert ink[1] > 1.2 * ink[0]


def test_matplotlib_alone_fills_every_split(monkeypatch):
  monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
  own = faces.find_faces.__wrapped__()
  monkeypatch.setattr(glyphs, "find_faces", lambda system_fonts: own)
  for split in faces.SPLITS:
    dataset = glyphs.GlyphSource("glyphs/letters", split, 8).render()
    dataset.require_per_class(20)


def test_a_split_without_a_face_says_what_to_install(monkeypatch):
  monkeypatch.setattr(glyphs, "find_faces", lambda system_fonts: ())
  with pytest.raises(UnsupRuleError, match=r"no installed typeface .*pip install fontpkg-"):
    glyphs.GlyphSource("glyphs", "train").render()


@pytest.mark.parametrize("split", faces.SPLITS)
@pytest.mark.parametrize("name", glyphs.CHARACTER_SETS)
def test_every_set_has_examples_enough_for_the_probe(name, split, cache):
  dataset = load(name, split, cache_dir=cache)
  dataset.require_per_class(20)
  assert dataset.class_names == tuple(glyphs.CHARACTER_SETS[name])
  assert dataset.shape == (16, 16, 1)
  assert dataset.images.dtype == np.uint8
  assert dataset.scale == 1 / 255


def test_glyphs_are_white_on_black_and_fill_the_image(cache):
  dataset = load("glyphs/letters", "train", cache_dir=cache)
  corners = dataset.images[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
  assert np.median(corners) == 0
  assert np.median(dataset.images.max((1, 2, 3))) == 255
  rows = (dataset.images[..., 0] > _BRIGHT).any(axis=2)
  height = rows.sum(axis=1)
  assert 10 <= np.median(height) <= 14
  assert (height >= 6).mean() > 0.95
  # Centred on average: as many empty rows above the ink as below, within half a pixel.
  above, below = rows.argmax(axis=1), rows[:, ::-1].argmax(axis=1)
  assert abs((above - below)[height > 0].mean()) < 0.5


def test_variants_of_a_glyph_differ_but_stay_alike():
  face = next(f for f in faces.find_faces() if f.style == "DejaVu Sans Book")
  drawn = glyphs._draw_face(face, "AB")
  assert drawn is not None
  images = glyphs._downsample_face(face, drawn, 16, 8).reshape(2, 8, -1).astype(float)
  assert len(np.unique(images.reshape(16, -1), axis=0)) == 16
  correlation = np.corrcoef(images.reshape(16, -1))
  assert correlation[:8, :8].mean() > correlation[:8, 8:].mean() + 0.1


def test_the_letters_of_unseen_typefaces_are_recognised_by_those_of_others(cache):
  train, test = (load("glyphs/letters", split, cache_dir=cache) for split in ("train", "test"))
  a, b = (dataset.images.reshape(len(dataset), -1) / 255 for dataset in (train, test))
  distances = (b**2).sum(1)[:, None] + (a**2).sum(1) - 2 * b @ a.T
  predicted = train.labels[distances.argmin(axis=1)]
  assert (predicted == test.labels).mean() > 0.75  # 1-nearest-neighbour; chance is 0.1.


@pytest.mark.parametrize("resolution", [8, 14, 32])
def test_resolution_is_that_asked_for(resolution, cache):
  dataset = load("glyphs/currency", "valid", resolution=resolution, cache_dir=cache)
  assert dataset.shape == (resolution, resolution, 1)


def test_another_process_draws_the_same_bytes(cache, tmp_path):
  program = (
    "import hashlib, sys; from unsup_rule.data import load\n"
    "dataset = load('glyphs/mathematical', 'train', resolution=14, cache_dir=sys.argv[1])\n"
    "print(hashlib.sha256(dataset.images.tobytes() + dataset.labels.tobytes()).hexdigest())\n"
  )
  output = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path)],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  here = load("glyphs/mathematical", "train", resolution=14, cache_dir=cache)
  assert output.strip() == _digest(here)


def test_gin_sets_the_number_of_variants(cache):
  before = load("glyphs/currency", "test", cache_dir=cache)
  gin.parse_config("GlyphSource.variants = 3")
  after = load("glyphs/currency", "test", cache_dir=cache)
  assert after.counts[0] * 8 == before.counts[0] * 3


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"name": "glyphs/runes", "split": "train"}, "unknown glyphs 'glyphs/runes': choose one of"),
    ({"name": "glyphs", "split": "dev"}, "no split 'dev': choose one of train, valid, test"),
    ({"name": "glyphs", "split": "train", "resolution": 33}, "resolution 33 .* choose 8 to 32"),
    ({"name": "glyphs", "split": "train", "resolution": 7}, "resolution 7 .* choose 8 to 32"),
  ],
)
def test_impossible_glyphs(arguments, message, cache):
  with pytest.raises(UnsupRuleError, match=message):
    load(**arguments, cache_dir=cache)
