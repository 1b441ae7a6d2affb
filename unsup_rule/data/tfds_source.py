"""Splits of TensorFlow Datasets; TensorFlow is imported only when one is read."""

import difflib
import functools
import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from unsup_rule import extras, locations
from unsup_rule.data import text
from unsup_rule.data.dataset import Dataset
from unsup_rule.errors import UnsupRuleError

_TIMEOUT_S = (5, 30)  # to connect, and between two packets
_BATCH = 1024
_DESCRIPTION = "dataset_info.json"  # TFDS writes it last, into the folder of each version
_CATALOG = "tensorflow.org/datasets/catalog"


def data_folder(data_dir: str | os.PathLike | None) -> pathlib.Path:
  """The folder of prepared sets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return locations.expanded(folder)


def fingerprint(name: str, data_dir: str | os.PathLike | None) -> str:
  """Changes when the set is prepared anew; a set that is not there yet is downloaded first.

  For a set that is there it does not import TFDS.

  Raises:
    UnsupRuleError: the set is unknown or cannot be downloaded.
  """
  folder = data_folder(data_dir) / re.split("[/:]", name)[0]
  if not any(folder.rglob(_DESCRIPTION)):
    _prepared_builder(name, data_folder(data_dir))
  contents = b"".join(path.read_bytes() for path in sorted(folder.rglob(_DESCRIPTION)))
  return f"{folder.absolute()} {hashlib.sha256(contents).hexdigest()}"


def read(name: str, split: str, data_dir: str | os.PathLike | None, vocabulary: int) -> Dataset:
  """Reads a labelled image or text set at its own resolution.

  Args:
    name: TFDS's name, with a configuration or version if need be, e.g. "imagenet_resized/16x16".
    split: TFDS's name of the split, slices included, e.g. "train[:90%]".
    data_dir: see `data_folder`.
    vocabulary: number of words for texts, taken from the whole of the split "train".

  Returns:
    Images as they are, or word counts, uint8.

  Raises:
    UnsupRuleError: the set is unknown, cannot be downloaded, or is not one of images of one size
      (or texts) with integer labels; the split is unknown.
  """
  builder = _prepared_builder(name, data_folder(data_dir))
  tfds = _tfds()
  features = builder.info.features
  input_key, label_key = _keys(name, builder)
  class_names = getattr(features[label_key], "names", None)
  batches = functools.partial(_batches, builder, input_key=input_key, label_key=label_key)
  if isinstance(features[input_key], tfds.features.Text):
    training_texts = (document for documents, _ in batches("train") for document in documents)
    words = text.most_frequent(map(_decoded, training_texts), vocabulary)
    parts = [
      (text.count_words(list(map(_decoded, documents)), words), labels)
      for documents, labels in batches(split)
    ]
    scale = 1.0
  else:
    shape = features[input_key].shape
    if len(shape) != 3 or None in shape:
      raise UnsupRuleError(
        f"data set {name!r} has images of shape {shape}: choose a set whose images have "
        "one fixed size, such as 'imagenet_resized/16x16'"
      )
    parts = list(batches(split))
    scale = 1 / 255 if features[input_key].np_dtype == np.uint8 else 1.0
  inputs, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
  del parts  # So that no more than two copies of the set exist at once.
  if class_names is None:
    class_names = [str(c) for c in range(int(labels.max(initial=0)) + 1)]
  return Dataset.build(name, split, inputs, labels, class_names, scale)


def _tfds() -> Any:
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise UnsupRuleError(
      f"cannot import TensorFlow Datasets ({_one_line(error)}): {extras.remedy('tfds')}, or use "
      "the built-in 'glyphs'"
    ) from error
  if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") >= "2":  # TensorFlow itself is to warn of nothing.
    logging.getLogger("absl").setLevel(logging.ERROR)
  return tensorflow_datasets


def _prepared_builder(name: str, folder: pathlib.Path) -> Any:
  """The set's builder, after downloading the set where it is not there yet."""
  tfds = _tfds()
  try:
    builder = tfds.builder(name, data_dir=folder)
  except tfds.core.DatasetNotFoundError as error:
    near = difflib.get_close_matches(name, tfds.list_builders(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"see {_CATALOG}"
    raise UnsupRuleError(f"unknown data set {name!r}: {hint}") from error
  except Exception as error:  # Whatever a constructor raises, e.g. on an unknown configuration.
    raise UnsupRuleError(
      f"cannot use data set {name!r}: {_one_line(error)}; see its page in {_CATALOG}"
    ) from error
  if not builder.info.splits:
    try:
      downloaded = any(path.is_file() for path in (folder / "downloads").rglob("*"))
      urls = [url for url in builder.url_infos or () if url.startswith("http")]
      if urls and not downloaded:
        check_answers(min(urls))
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    except Exception as error:  # Network, disk, missing parts, manual downloads: all end here.
      raise UnsupRuleError(
        f"cannot get data set {name!r} into data_dir {folder} ({_one_line(error)}): prepare it "
        f"where there is a network, `tfds build {name} --data_dir DIR`, and set "
        "load_data.data_dir (or $TFDS_DATA_DIR) to that DIR"
      ) from error
  return builder


def check_answers(url: str) -> None:
  """Asks for `url`, since TFDS retries for minutes, and waits for a silent host for ever.

  Raises:
    requests.exceptions.RequestException: nobody answers, or not in time.
  """
  import requests

  requests.get(url, stream=True, timeout=_TIMEOUT_S).close()


def _keys(name: str, builder: Any) -> tuple[str, str]:
  """The features that are the input and the integer label."""
  tfds, features = _tfds(), builder.info.features
  keys = builder.info.supervised_keys or ("image", "label")
  if len(keys) == 2 and all(isinstance(key, str) and key in features for key in keys):
    inputs, label = (features[key] for key in keys)
    if (
      isinstance(inputs, (tfds.features.Image, tfds.features.Text))
      and label.shape == ()
      and np.issubdtype(label.np_dtype, np.integer)
    ):
      return keys
  raise UnsupRuleError(
    f"data set {name!r} has no images or texts with integer labels (features "
    f"{_one_line(features)}): choose a classification data set"
  )


def _batches(
  builder: Any, split: str, input_key: str, label_key: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """A split's examples in the order on disk, with a progress bar."""
  tfds, name = _tfds(), builder.info.full_name
  try:
    total = builder.info.splits[split].num_examples
  except (KeyError, ValueError) as error:
    raise UnsupRuleError(
      f"data set {name!r} has no split {split!r}: choose one of "
      f"{', '.join(builder.info.splits)}, or a slice such as 'train[:90%]'"
    ) from error
  if not total:
    raise UnsupRuleError(
      f"data set {name!r}, split {split!r} is empty: choose a split that has examples"
    )
  with tqdm.tqdm(
    total=total, desc=f"reading {name} {split}", unit=" examples", leave=False
  ) as progress:
    examples = builder.as_dataset(
      split=split, decoders=tfds.decode.PartialDecoding({input_key: True, label_key: True})
    )
    for batch in tfds.as_numpy(examples.batch(_BATCH)):
      yield batch[input_key], batch[label_key]
      progress.update(len(batch[label_key]))


def _decoded(document: bytes) -> str:
  return document.decode(errors="replace")


def _one_line(message: Any) -> str:
  line = " ".join(str(message).split())
  return line if len(line) <= 300 else f"{line[:300]}..."
