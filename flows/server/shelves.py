"""Where the gallery server finds pages, their data and videos: a folder of this machine, or one in an object store."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import is_remote, open_store

PAGE = "index.html"
STORED = r"(?:edits|sources)/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{32}/(?:edit|source)\.mp4"  # of rejected edits
VIDEO = re.compile(rf"(?:.*/)?(?:dataset/videos/(?:[0-9a-f]{{2}}/)?[A-Za-z0-9._-]+\.mp4|{STORED})")
DATA = re.compile(r"(?:.*/)?gallery/(?:index-)?[0-9]{5,9}\.js")  # what index.html loads of a large gallery
DEPTH = 3  # folders down, in which galleries are looked for
PART_BYTES = 1 << 20


class Shelf(Protocol):
    """The files that may be served. Names are relative paths; a file that goes meanwhile raises FileNotFoundError."""

    def galleries(self) -> list[str]:
        """Sorted folders with a gallery, at most DEPTH down, "." for the shelf itself."""

    def size(self, name: str) -> int | None:
        """Bytes of a file that may be served; None for all others."""

    def read(self, name: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes from `first` to `last`, both included, in parts."""


def shelf_of(folder: str | Path) -> Shelf:
    """The shelf of a path or URL. Raises ForbiddenUri for one that may not be used, StorageError for one that can't."""
    return StoreShelf(str(folder)) if is_remote(str(folder)) else LocalShelf(Path(folder))


def asked(target: str) -> str | None:
    """The relative path that a request's target names, if what may be served can have it."""
    try:
        name = unquote(urlsplit(target).path, errors="strict").lstrip("/")
    except ValueError:
        return None
    return name if may_be_served(name) else None


def may_be_served(name: str) -> bool:
    """Whether a relative path is that of a gallery's page, of its data or of a video."""
    plain = name.isprintable() and not {"", ".", ".."}.intersection(name.split("/"))
    return plain and bool(posixpath.basename(name) == PAGE or VIDEO.fullmatch(name) or DATA.fullmatch(name))


class LocalShelf:
    """A folder of this machine; links that lead out of it are not followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def galleries(self) -> list[str]:
        pages = sorted(path for depth in range(DEPTH + 1) for path in self.folder.glob("*/" * depth + PAGE))
        return [page.parent.relative_to(self.folder).as_posix() for page in pages if (page.parent / "dataset").is_dir()]

    def size(self, name: str) -> int | None:
        path = self._inside(name)
        return path.stat().st_size if path else None

    def read(self, name: str, first: int, last: int) -> Iterator[bytes]:
        path, left = self._inside(name), last - first + 1
        if path is None:
            raise FileNotFoundError(name)
        with path.open("rb") as file:
            file.seek(first)
            while left > 0 and (data := file.read(min(left, PART_BYTES))):
                yield data
                left -= len(data)

    def _inside(self, name: str) -> Path | None:
        try:
            path = (self.folder / name).resolve()
            inside = path.is_relative_to(self.folder) and path.is_file()
        except (ValueError, OSError):
            return None
        # a link inside may lead to another file inside, which must be one that may be served too
        return path if inside and may_be_served(path.relative_to(self.folder).as_posix()) else None


class StoreShelf:
    """A folder in an object store, read with the credentials of this process."""

    def __init__(self, url: str) -> None:
        self.fs, path = open_store(url)
        self.path = path.rstrip("/")

    def galleries(self) -> list[str]:
        found, level = [], [self.path]
        for _ in range(DEPTH + 1):
            inside = {folder: self._listed(folder) for folder in level}
            found += [folder for folder, kinds in inside.items() if {PAGE, "dataset"} <= kinds.keys()]
            runs = set(found)  # a run's own folders hold no galleries, but a great many objects
            below = ((folder, name) for folder, kinds in inside.items() if folder not in runs for name in kinds)
            level = [f"{folder}/{name}" for folder, name in below if inside[folder][name] == "directory"]
        return sorted(posixpath.relpath(folder, self.path) for folder in found)

    def _listed(self, folder: str) -> dict[str, str]:
        with storing(folder):
            try:
                infos = self.fs.ls(folder, detail=True, refresh=True)
            except FileNotFoundError:
                return {}
        return {posixpath.basename(info["name"].rstrip("/")): info["type"] for info in infos}

    def size(self, name: str) -> int | None:
        with storing(name):
            try:
                info = self.fs.info(f"{self.path}/{name}", refresh=True)
            except FileNotFoundError:
                return None
        return int(info["size"]) if info["type"] == "file" else None

    def read(self, name: str, first: int, last: int) -> Iterator[bytes]:
        for start in range(first, last + 1, PART_BYTES):
            with storing(name):
                data = self.fs.cat_file(f"{self.path}/{name}", start=start, end=min(start + PART_BYTES, last + 1))
            yield data
