"""Objects on a local disk: flushed to disk before they count, created by link, never through a symlink."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import numpy as np

from cogvideo_core.errors import BadSpec
from cogvideo_core.storage.objects import Objects, storing

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class LocalObjects(Objects):
    """A tree of files. A stage's folder may be a symlink (to a larger disk, say); nothing below it may lead out."""

    local = True

    def path(self, name: str) -> str:
        full, stage = f"{self.root}/{name}", f"{self.root}/{name.partition('/')[0]}"
        home = os.path.realpath(stage)
        if os.path.commonpath([home, os.path.realpath(full)]) != home:
            raise BadSpec(f"object {name!r}: a symlink leads out of its folder; remove the link")
        return full

    def read_range(self, name: str, start: int, size: int) -> np.ndarray:
        with storing(name, (FileNotFoundError,)), open(self.path(name), "rb", buffering=0) as source:
            buffer, filled = np.empty(size, np.uint8), 0
            source.seek(start)
            while filled < size and (got := source.readinto(buffer[filled:].data)):
                filled += got
            return buffer[:filled]

    def create(self, name: str, data: bytes) -> None:
        final = self.path(name)
        temporary = f"{name}.{uuid.uuid4().hex}.tmp"
        with storing(name, (FileExistsError,)):
            try:
                with self._writer(temporary) as sink:
                    sink.write(data)
                _link(self.path(temporary), final)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(self.path(temporary))
            _sync_folder(os.path.dirname(final))

    def move(self, name: str, target: str) -> None:
        with storing(name, (FileNotFoundError,)):
            if not os.path.isfile(self.path(name)):
                raise FileNotFoundError(name)
            os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
            os.replace(self.path(name), self.path(target))

    def remove(self, name: str) -> None:
        super().remove(name)
        parts = name.split("/")
        # stage/k2/key stays: another writer may be about to use it.
        for depth in range(len(parts) - 1, 3, -1):
            with suppress(OSError):
                os.rmdir(self.path("/".join(parts[:depth])))

    def listed(self, stage: str) -> Iterator[tuple[str, int]]:
        folders = [stage]
        with storing(stage):
            while folders:
                folder = folders.pop()
                for entry in _entries(f"{self.root}/{folder}"):
                    name = f"{folder}/{entry.name}"
                    if entry.is_symlink():
                        self.path(name)  # refuses one that leads out
                    if entry.is_dir():
                        folders.append(name)
                        continue
                    with suppress(FileNotFoundError):  # another writer's temporary file
                        yield name, entry.stat().st_size

    @contextmanager
    def _writer(self, name: str) -> Iterator[IO[bytes]]:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        for depth in range(name.count("/") + 1):
            _sync_folder("/".join(path.split("/")[: -1 - depth]))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, last first; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name, reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _link(temporary: str, final: str) -> None:
    """Make `final` appear whole or not at all. Raises FileExistsError."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without hard links (exFAT, some network drives) a crash may leave half a file; its own sha256 tells.
        with open(temporary, "rb") as source, open(final, "xb") as sink:
            sink.write(source.read())
            os.fsync(sink.fileno())


def _sync_folder(path: str) -> None:
    # A file's name is safe only when its folder is flushed too.
    handle = os.open(path or "/", os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, *_NO_LINKS}:
            raise
    finally:
        os.close(handle)
