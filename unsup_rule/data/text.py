"""Texts as bags of frequent words."""

import collections
import re
from collections.abc import Iterable, Sequence

import numpy as np

_TAG = re.compile(r"<[^<>]*>")
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")


def words(text: str) -> list[str]:
  """Lower-cased runs of ASCII letters and digits, inner apostrophes kept; HTML tags are dropped."""
  return _WORD.findall(_TAG.sub(" ", text.lower()))


def most_frequent(texts: Iterable[str], size: int) -> list[str]:
  """The `size` words with the most occurrences in `texts`, ties in alphabetical order.

  There are fewer if the texts have fewer different words.
  """
  occurrences: collections.Counter[str] = collections.Counter()
  for text in texts:
    occurrences.update(words(text))
  return sorted(occurrences, key=lambda word: (-occurrences[word], word))[:size]


def count_words(texts: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
  """Occurrences of each word in each text, uint8 [len(texts), len(vocabulary)], at most 255."""
  column = {word: i for i, word in enumerate(vocabulary)}
  counts = np.zeros((len(texts), len(vocabulary)), np.uint8)
  for row, text in enumerate(texts):
    found = [column[word] for word in words(text) if word in column]
    counts[row] = np.bincount(found, minlength=len(vocabulary)).clip(max=255)
  return counts
