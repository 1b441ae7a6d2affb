"""Data sets in memory: `load(name, split)` gives a `Dataset` of labelled examples, sorted by class.

dataset         the pool and what is made of it (subsets of classes, grey, other resolutions)
sets         data sets by name
glyphs       the built-in set, characters drawn in typefaces; `faces` finds and splits these
tfds_source  image and text sets of TensorFlow Datasets
text         bags of words
drawn        what sets that are drawn have in common
bags         synthetic texts, already bags of words
tabular      tables of scikit-learn
manifolds    moons, circles, rolls and blobs in a space of some dimensions
resizing     TensorFlow 1's bilinear grid, and box averages
cache        checked files of datasets
"""

from unsup_rule.data.dataset import Dataset
from unsup_rule.data.sets import load

__all__ = ["Dataset", "load"]
