"""Synthetic texts as bags of words: classes of documents over one vocabulary.

A word's frequency follows Zipf's law (with Mandelbrot's offset). Topics tilt the frequencies of
some words, a document mixes topics, and a class prefers some topics and tilts some words a little
whatever the topic, as a mood does. Documents differ in length, and words come in bursts: one that a
document has it has more often than its frequency says. So the topics and lengths that classes
share are the largest part of what differs between documents, as in real reviews.

Shape legend: N documents, V words, T topics, C classes.
"""

import dataclasses

import gin
import numpy as np

from unsup_rule.data.dataset import Dataset
from unsup_rule.data.drawn import SPLITS, DrawnSource

_OFFSET = 2.7  # of Zipf's law for the most frequent words
_CHUNK = 1024  # documents drawn at once, which bounds the memory


@gin.configurable(module="unsup_rule", denylist=["name", "split", "resolution"])
@dataclasses.dataclass(frozen=True)
class BagSource(DrawnSource):
  """Documents to draw.

  Attributes:
    name: "bags".
    split: "train", "valid" or "test", which share no topic and no class.
    resolution: number of words, 16 to 4,096; 1,000 if None.
    classes: kinds of documents.
    examples: documents of a class.
    topics: which all classes share.
    topic_spread: standard deviation of the log frequency of a topic's own words.
    class_spread: standard deviation of the log weight that a class gives to a topic.
    mood_spread: standard deviation of the log frequency of the words that a class tilts.
    length: median number of words of a document.
  """

  NAMES = ("bags",)
  SIZES = range(16, 4097)
  DEFAULT_SIZE = 1000
  SIZE_IS = "number of words"

  classes: int = 24
  examples: int = 200
  topics: int = 20
  topic_spread: float = 1.5
  class_spread: float = 0.8
  mood_spread: float = 0.5
  length: float = 120.0

  def render(self) -> Dataset:
    """Draws the dataset: counts of words, [N, 1, 1, V] uint8."""
    rng = np.random.default_rng([240, SPLITS.index(self.split)])
    n_words = self.size
    log_base_V = -np.log(np.arange(n_words) + 1 + _OFFSET)
    topics_TxV = log_base_V + _sparse(rng, (self.topics, n_words), 0.3, self.topic_spread)
    topics_TxV = _normalised(np.exp(topics_TxV))
    weights_CxT = rng.normal(size=(self.classes, self.topics)) * self.class_spread
    weights_CxT = 3.0 * _normalised(np.exp(weights_CxT)) + 0.02
    moods_CxV = np.exp(_sparse(rng, (self.classes, n_words), 0.2, self.mood_spread))
    labels_N = np.repeat(np.arange(self.classes), self.examples)
    counts = [
      self._documents(rng, topics_TxV, weights_CxT[rows], moods_CxV[rows])
      for rows in np.array_split(labels_N, -(-len(labels_N) // _CHUNK))
    ]
    names = [str(c) for c in range(self.classes)]
    return Dataset.build(self.name, self.split, np.concatenate(counts), labels_N, names, 1.0)

  def _documents(
    self, rng: np.random.Generator, topics_TxV: np.ndarray, weights_NxT: np.ndarray, moods_NxV
  ) -> np.ndarray:
    """A document for each row of topic weights and moods: counts, uint8 [N, V]."""
    mixture_NxT = _normalised(rng.gamma(weights_NxT))
    words_NxV = _normalised(mixture_NxT @ topics_TxV * moods_NxV)
    length_Nx1 = self.length * np.exp(0.5 * rng.normal(size=(len(words_NxV), 1)))
    burst_NxV = rng.gamma(2.0, 0.5, words_NxV.shape)
    return np.minimum(rng.poisson(length_Nx1 * words_NxV * burst_NxV), 255).astype(np.uint8)


def _sparse(rng, shape: tuple[int, int], share: float, spread: float) -> np.ndarray:
  """Normal numbers at a share of the places, 0 at the others."""
  return np.where(rng.random(shape) < share, spread * rng.normal(size=shape), 0.0)


def _normalised(weights: np.ndarray) -> np.ndarray:
  """Rows that sum to 1."""
  return weights / weights.sum(axis=1, keepdims=True)
