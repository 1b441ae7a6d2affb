"""Where things are."""

import pathlib

SUPPORT = pathlib.Path(__file__).resolve().parent
ROOT = SUPPORT.parent.parent
GOLDEN = ROOT / "tests" / "golden"
