"""The root that a dataset is collected into: files appear there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store

TEMPORARY = re.compile(r"\.collect-([0-9a-f]{12})-(\d+)-.+")  # machine, process


@cache
def machine() -> str:
    """Tells apart where process numbers mean the same: machines, and containers on them."""
    processes = "/proc/self/ns/pid"
    return hashlib.sha256(f"{socket.gethostname()} {_link(processes)}".encode()).hexdigest()[:12]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # not on Linux
        return ""


def temporary_prefix() -> str:
    """What this process's temporary files are called, so that others know when nobody needs them."""
    return f".collect-{machine()}-{os.getpid()}-"


def is_left(name: str) -> bool:
    """Whether a file is temporary and its process, one of this machine's, has ended: by a kill, or a power cut."""
    found = TEMPORARY.fullmatch(name)
    return found is not None and found[1] == machine() and not psutil.pid_exists(int(found[2]))


class Target:
    """A root and its file system, and the sizes of the files that were written to it, by name."""

    def __init__(self, fs: AbstractFileSystem, path: str) -> None:
        self.fs, self.path = fs, path.rstrip("/") or path
        self.local = isinstance(fs, LocalFileSystem)
        self.address = str(fs.unstrip_protocol(self.path))
        self.written: dict[str, int] = {}
        self._swept: set[str] = set()

    @classmethod
    def of(cls, root: str) -> Target:
        """Raises ForbiddenUri for a root that may not be used."""
        return cls(*open_store(root))

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file that takes its place when the block ends; where the block raises, what was there before stays."""
        final = f"{self.path}/{name}"
        if self.local:
            self.sweep(os.path.dirname(final))
        with storing(name), self.temporary(final) as temporary:
            with open(temporary, "wb") as sink:
                yield sink
            self.written[name] = os.path.getsize(temporary)
            self.publish(temporary, final)

    def write(self, name: str, data: bytes) -> None:
        with self.writing(name) as sink:
            sink.write(data)

    @contextmanager
    def temporary(self, final: str) -> Iterator[str]:
        """An empty file on this machine's disk: on a local root in the folder of the final one, which is made.

        Its ending is the final one's, from which stores tell browsers what an object is.
        """
        folder, ending = os.path.dirname(final), os.path.splitext(final)[1]
        if self.local:
            os.makedirs(folder, exist_ok=True)
        handle, path = tempfile.mkstemp(ending, temporary_prefix(), folder if self.local else None)
        os.close(handle)
        try:
            yield path
        finally:
            Path(path).unlink(missing_ok=True)

    def sweep(self, folder: str) -> None:
        """Removes what killed processes of this machine have left in a local folder; looks once at each."""
        if folder in self._swept:
            return
        self._swept.add(folder)
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                if is_left(entry.name):
                    Path(entry.path).unlink(missing_ok=True)

    def publish(self, temporary: str, final: str) -> None:
        """Puts a file of this machine's disk in its place."""
        if self.local:
            os.chmod(temporary, 0o644)  # only the owner can read mkstemp's files
            os.replace(temporary, final)
        else:
            self.fs.put_file(temporary, final)

    def remove(self, name: str) -> None:
        """Removes a file; a missing one is no error."""
        with storing(name):
            try:
                self.fs.rm_file(f"{self.path}/{name}")
            except FileNotFoundError:
                return

    def size(self, name: str) -> int | None:
        """Bytes of a file, None for none."""
        with storing(name):
            try:
                found: dict[str, Any] = self.fs.info(f"{self.path}/{name}")
            except FileNotFoundError:
                return None
        return int(found["size"])

    def names(self, folder: str) -> list[str]:
        """Sorted names of what is in a folder; none where there is none."""
        with storing(folder):
            try:
                found = self.fs.ls(f"{self.path}/{folder}", detail=False, refresh=True)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def relative(self, uri: str) -> str:
        """An object's path relative to the root, so that the root can be moved; elsewhere, its full address."""
        for prefix in (f"{self.path}/", f"{self.address}/"):
            if uri.startswith(prefix):
                return uri[len(prefix) :]
        if not uri:
            return ""
        fs, path = open_store(uri)
        inside = type(fs) is type(self.fs) and path.startswith(f"{self.path}/")
        return path[len(self.path) + 1 :] if inside else uri
