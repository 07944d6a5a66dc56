"""The operations the ledger needs of a store: put, create once, read a range, hash, move, remove; over any fsspec URL.

Names are relative to the root. Every failure is a `StorageError` with the object's name, except FileNotFoundError
where a missing object is an answer, and FileExistsError from `create`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np

from cogvideo_core.errors import EditError, StorageError

CHUNK = 8 << 20
# Some file systems "create" by checking first: the lock keeps at least one process's threads apart.
_CREATING = Lock()
_NO_FOLDERS = {"s3", "gs", "az", "abfs", "http", "https", "memory"}
# Bugs are not failures of a store: they must not look as if another try could help.
_BUGS = (AssertionError, AttributeError, MemoryError, NameError, TypeError, ValueError)


def redacted(error: BaseException) -> str:
    """An error's text, one line, without passwords or signatures that URLs may carry."""
    text = re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))
    return re.sub(r"\?\S+", "?...", text)[:300] or type(error).__name__


@contextmanager
def storing(name: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever a file system raises into a StorageError that names the object."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (EditError, *_BUGS, *passing)):
            raise
        raise StorageError(f"object {name!r}: {redacted(error)}; check the store and run again") from error


class Objects:
    """A tree of objects on any fsspec file system."""

    local = False

    def __init__(self, fs: Any, root: str) -> None:
        self.fs, self.root = fs, root.rstrip("/")

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes start..end of an object, or all of it. Raises FileNotFoundError."""
        with storing(name, (FileNotFoundError,)):
            return self.fs.cat_file(self.path(name), start=start, end=end)

    def read_range(self, name: str, start: int, size: int) -> np.ndarray:
        """uint8 [size] from `start`, fewer where the object ends, in memory of its own; one request.

        Raises FileNotFoundError.
        """
        return np.frombuffer(self.read(name, start, start + size), np.uint8).copy()

    def size(self, name: str) -> int:
        """Bytes. Raises FileNotFoundError."""
        with storing(name, (FileNotFoundError,)):
            info = self.fs.info(self.path(name))
            if info["type"] != "file":
                raise FileNotFoundError(name)
            return int(info["size"])

    def exists(self, name: str) -> bool:
        try:
            return self.size(name) >= 0
        except FileNotFoundError:
            return False

    def chunks(self, name: str) -> Iterator[bytes]:
        """The object in pieces of at most CHUNK bytes. Raises FileNotFoundError."""
        size = self.size(name)
        for start in range(0, size, CHUNK):
            yield self.read(name, start, min(start + CHUNK, size))

    def digest(self, name: str) -> tuple[int, str]:
        """(bytes, sha256) of what is stored. Raises FileNotFoundError."""
        return _drain(self.chunks(name))

    def put(self, name: str, source: Path) -> tuple[int, str]:
        """Store a local file; returns (bytes, sha256), hashed while copying. Raises StorageError if it came short."""
        with storing(name):
            with source.open("rb") as stream, self._writer(name) as sink:
                size, sha256 = _drain(iter(lambda: stream.read(CHUNK), b""), sink)
            if (stored := self.size(name)) != size:
                raise StorageError(f"object {name!r}: {stored} bytes stored of {size}; run again")
            return size, sha256

    def fetch(self, name: str, target: Path) -> tuple[int, str]:
        """Copy an object to a local file; returns (bytes, sha256). Raises FileNotFoundError."""
        with storing(name, (FileNotFoundError,)), target.open("wb") as sink:
            return _drain(self.chunks(name), sink)

    def create(self, name: str, data: bytes) -> None:
        """Store a small object if there is none of this name, else raise FileExistsError."""
        with storing(name, (FileExistsError,)), _CREATING:
            self._parents(name)
            self.fs.pipe_file(self.path(name), data, mode="create")

    def move(self, name: str, target: str) -> None:
        """Copy, then remove. Raises FileNotFoundError."""
        with storing(name, (FileNotFoundError,)):
            self.size(name)
            with self._writer(target) as sink:
                _drain(self.chunks(name), sink)
            self.fs.rm_file(self.path(name))

    def remove(self, name: str) -> None:
        """Remove an object; a missing one is no error."""
        with storing(name):
            try:
                self.fs.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def names(self, folder: str) -> list[str]:
        """Sorted names of a folder's entries; none where there is no folder."""
        with storing(folder):
            try:
                found = self.fs.ls(self.path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def walk(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, fsspec's info) of all objects below a folder, "" for the root, in order."""
        with storing(folder):
            found = self.fs.find(self.path(folder).rstrip("/"), detail=True)
        for path in sorted(found):
            yield path.partition(f"{self.root}/")[2], found[path]

    def listed(self, stage: str) -> Iterator[tuple[str, int]]:
        """(name, bytes) of all objects of a stage, from listings alone, always in the same order; one of its folders is
        in memory at a time."""
        for folder in self.names(stage):
            for name, info in self.walk(f"{stage}/{folder}"):
                yield name, int(info["size"] or 0)

    def _writer(self, name: str) -> AbstractContextManager[IO[bytes]]:
        self._parents(name)
        writer: AbstractContextManager[IO[bytes]] = self.fs.open(self.path(name), "wb")
        return writer

    def _parents(self, name: str) -> None:
        # Where there are no folders, making one costs requests and may make a bucket.
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        if not protocols & _NO_FOLDERS:
            self.fs.makedirs(self.path(name).rpartition("/")[0], exist_ok=True)


def _drain(chunks: Iterator[bytes], sink: IO[bytes] | None = None) -> tuple[int, str]:
    """(bytes, sha256) of the chunks, written to `sink` on the way."""
    size, sha256 = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        sha256.update(chunk)
        if sink is not None:
            sink.write(chunk)
    return size, sha256.hexdigest()
