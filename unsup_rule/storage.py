"""Files: durable writes (a temporary name, fsync, rename), and the one container for arrays."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pathlib
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from unsup_rule import reading
from unsup_rule.errors import UnsupRuleError

_HEADER = "header"
_TEMPORARY = ".unsup-rule.tmp"  # How names of unfinished files end.
_OWN = ("kind", "format", "arrays", "sha256")
# What damage to a file, and nothing else, makes its readers raise.
DAMAGE = (
  OSError,
  ValueError,
  KeyError,
  TypeError,
  AttributeError,
  IndexError,
  EOFError,
  NotImplementedError,
  RuntimeError,
  OverflowError,
  MemoryError,
  SyntaxError,
  tokenize.TokenError,
  struct.error,
  zlib.error,
  zipfile.BadZipFile,
)
_MOST_BYTES = 2**30  # that an archive of somebody else may claim


class DamagedError(UnsupRuleError):
  """A file that is not whole, or not what it should be: (path, reason)."""

  @property
  def reason(self) -> str:
    """What is wrong with it."""
    return self.args[1]

  def __str__(self) -> str:
    return f"{self.args[0]} is damaged ({self.reason}); copy it again"


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Opens `path` for writing bytes; the old file stays until the new one is complete and synced.

  Raises:
    UnsupRuleError: the folder cannot be written (permissions, full disk), or a folder or a device
      is there; what was there is intact.
  """
  target = pathlib.Path(path)
  temporary = None
  try:
    if target.exists() and not target.is_file():
      raise UnsupRuleError(f"cannot write {target}: it is there, and no file; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
      prefix=f".{target.name}.", suffix=_TEMPORARY, dir=target.parent
    )
    with os.fdopen(descriptor, "wb") as stream:
      yield stream
      stream.flush()
      os.fsync(stream.fileno())
    os.chmod(temporary, _mode(target))
    os.replace(temporary, target)
    temporary = None
    _sync_folder(target.parent)
  except OSError as error:
    raise UnsupRuleError(
      f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
    ) from error
  finally:
    if temporary is not None:
      with contextlib.suppress(OSError):
        os.unlink(temporary)


def _mode(target: pathlib.Path) -> int:
  """Permissions of a file: those it has, or what the umask leaves of a new one."""
  with contextlib.suppress(FileNotFoundError):
    return target.stat().st_mode & 0o777
  umask = os.umask(0)
  os.umask(umask)
  return 0o666 & ~umask


def remove_temporary(folder: pathlib.Path) -> None:
  """Removes what `atomic_open` had begun in processes that are gone; nobody may write meanwhile."""
  for path in folder.glob(f".*{_TEMPORARY}"):
    with contextlib.suppress(OSError):
      path.unlink()


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes `content` to `path` atomically and durably."""
  with atomic_open(path) as stream:
    stream.write(content)


def write_text(path: str | os.PathLike, content: str) -> None:
  """Writes UTF-8 text to `path` atomically and durably."""
  write_bytes(path, content.encode())


def _sync_folder(folder: pathlib.Path) -> None:
  if os.name == "nt":  # Windows opens no folders.
    return
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


class Shaped(Protocol):
  """An array, or what stands for one."""

  @property
  def shape(self) -> tuple[int, ...]: ...
  @property
  def dtype(self) -> np.dtype: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Container:
  """What a file of ours holds: named arrays, and plain values beside them.

  On disk it is numpy's own .npz, uncompressed and with nothing pickled. Its entry `header` is UTF-8
  JSON: the values, and

    kind     what the file is: "rule", "checkpoint", "dataset"
    format   of the values, a number
    arrays   {name: {"shape": [..], "dtype": ".."}}
    sha256   of all arrays, see `digest`

  Attributes:
    kind: as in the header; format 1 and 2 of rules may lack it.
    format: as in the header.
    arrays: by name; read-only where they were read.
    values: plain values by name: what JSON can say.
  """

  kind: str
  format: int
  arrays: Mapping[str, np.ndarray]
  values: Mapping[str, Any]

  def write(self, path: str | os.PathLike) -> None:
    """Writes the file atomically; the same content makes the same bytes.

    Raises:
      UnsupRuleError: the folder cannot be written.
    """
    header = {
      "kind": self.kind,
      "format": self.format,
      "arrays": {n: {"shape": a.shape, "dtype": str(a.dtype)} for n, a in self.arrays.items()},
      "sha256": digest(self.arrays),
      **self.values,
    }
    text = json.dumps(header, indent=1).encode()
    named = {_HEADER: np.frombuffer(text, np.uint8)}
    named |= {name: array.view(_stored(array.dtype)) for name, array in self.arrays.items()}
    with atomic_open(path) as stream:
      np.savez(stream, **named)  # pyright: ignore[reportArgumentType]

  @classmethod
  def read(cls, path: str | os.PathLike, kind: str, formats: Sequence[int]) -> "Container":
    """Reads a file and checks all of it; sizes are checked before anything is allocated.

    Args:
      path: of the file.
      kind: what it must be.
      formats: those that the caller understands.

    Raises:
      OSError: there is no such file, or it cannot be read.
      DamagedError: it is not a whole file of this kind.
      UnsupRuleError: it has another format.
    """
    with reading.opened(path) as stream:
      try:
        entries = _entries(stream)
        header = json.loads(bytes(_array(entries.pop(_HEADER), np.dtype(np.uint8))))
        found = header["format"], header.get("kind", kind)
      except DAMAGE as error:
        _raise_if_unreadable(error)
        raise DamagedError(path, f"no {kind} in it: {_reason(error)}") from error
      if found[1] != kind:
        raise DamagedError(path, f"it is a {found[1]}, not a {kind}")
      if found[0] not in formats:
        raise UnsupRuleError(
          f"{path} has format {found[0]!r}, this version of unsup-rule reads "
          f"{' and '.join(map(str, formats))}; use the version that wrote it"
        )
      try:
        arrays = _checked(entries, header["arrays"], header["sha256"])
      except DAMAGE as error:
        _raise_if_unreadable(error)
        raise DamagedError(path, _reason(error)) from error
    values = {name: value for name, value in header.items() if name not in _OWN}
    return cls(kind, found[0], arrays, values)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """All arrays of an .npz file of somebody else, compressed or not; nothing is unpickled.

  Raises:
    OSError: there is no such file, or it cannot be read.
    DamagedError: it is not whole, or claims more than a gigabyte.
  """
  with reading.opened(path) as stream:
    try:
      with zipfile.ZipFile(stream) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > _MOST_BYTES:
          raise ValueError(f"it claims to hold more than {_MOST_BYTES:,} bytes")
        return {i.filename.removesuffix(".npy"): _array(archive.read(i)) for i in infos}
    except DAMAGE as error:
      _raise_if_unreadable(error)
      raise DamagedError(path, _reason(error)) from error


def digest(arrays: Mapping[str, np.ndarray]) -> str:
  """SHA-256 in hexadecimal, of names, types, shapes and values, in order of names."""
  total = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return total.hexdigest()


def _raise_if_unreadable(error: BaseException) -> None:
  """Raises an error of the disk again; a place outside of the file is the file's own fault."""
  if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
    raise error


def check_fit(
  found: Mapping[str, Shaped], wanted: Mapping[str, Shaped], what: str, remedy: str
) -> None:
  """Refuses arrays that differ from those wanted in names, shapes or types.

  Args:
    found: by name, whatever has a shape and a dtype.
    wanted: the same.
    what: names the arrays in messages, such as "theta in runs/a/params".
    remedy: the end of the message.

  Raises:
    UnsupRuleError: names the first that is missing, differs, or is too many.
  """
  for name, array in wanted.items():
    if name not in found:
      raise UnsupRuleError(f"{what} has no leaf {name} {_abstract(array)}; {remedy}")
    if _abstract(found[name]) != _abstract(array):
      raise UnsupRuleError(
        f"{what} does not fit: leaf {name} is {_abstract(found[name])}, expected "
        f"{_abstract(array)}; {remedy}"
      )
  for name, array in found.items():
    if name not in wanted:
      raise UnsupRuleError(f"{what} has a leaf too many, {name} {_abstract(array)}; {remedy}")


def _abstract(array: Shaped) -> str:
  return f"{array.dtype}{list(array.shape)}"


def _reason(error: Exception) -> str:
  return str(error).split("\n", 1)[0] or type(error).__name__


def _stored(dtype: np.dtype) -> np.dtype:
  """The type in the file: numbers that numpy's format has no name for (bfloat16) as integers."""
  if dtype.kind == "O":
    raise TypeError("arrays of objects are not stored")
  return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


def _entries(stream: BinaryIO) -> dict[str, bytes]:
  """The files in an archive by name, without ".npy"; none claims more bytes than there are."""
  size = stream.seek(0, os.SEEK_END)
  stream.seek(-2, os.SEEK_END)
  if stream.read() != b"\0\0":  # An archive of ours ends in the length of no comment.
    raise ValueError("its end is missing")
  with zipfile.ZipFile(stream) as archive:
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
      raise ValueError("it is compressed")
    if sum(info.file_size for info in infos) > size:
      raise ValueError("it claims to be larger than it is")
    return {info.filename.removesuffix(".npy"): archive.read(info) for info in infos}


def _array(content: bytes, dtype: np.dtype | None = None) -> np.ndarray:
  """The array of an .npy file, laid over its bytes; of this type, or of any that it says."""
  stream = io.BytesIO(content)
  if np.lib.format.read_magic(stream) != (1, 0):
    raise ValueError("an array of an unknown version")
  shape, in_fortran_order, found = np.lib.format.read_array_header_1_0(stream)
  dtype = dtype or found
  if found != _stored(dtype):
    raise ValueError(f"an array of type {found}, not {dtype}")
  array = np.frombuffer(content, found, offset=stream.tell()).view(dtype)
  return array.reshape(shape, order="F" if in_fortran_order else "C")


def _checked(
  entries: Mapping[str, bytes], said: Mapping[str, Mapping[str, Any]], sha256: str
) -> dict[str, np.ndarray]:
  """The arrays of the entries, if they are what the header says."""
  for name in sorted({*said, *entries}):
    if name not in said or name not in entries:
      missing = "missing" if name in said else "there, but the header says nothing of it"
      raise ValueError(f"array {name} is {missing}")
  arrays = {n: _array(content, np.dtype(said[n]["dtype"])) for n, content in entries.items()}
  for name, array in arrays.items():
    if list(array.shape) != said[name]["shape"]:
      raise ValueError(f"array {name} is {array.shape}, the header says {said[name]['shape']}")
  if digest(arrays) != sha256:
    raise ValueError("the arrays do not match their checksum")
  return arrays
