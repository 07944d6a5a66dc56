"""One clip's file: what its store says of it, and its bytes on this machine."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cogvideo_core.errors import ClipTooLarge, ForbiddenUri, MissingClip, NotAVideo, StorageError
from cogvideo_core.inputs.manifests import ending
from cogvideo_core.storage.uris import is_remote, open_store, scrubbed

CHUNK_BYTES = 1 << 20
ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5")
DATES = ("Last-Modified", "mtime", "LastModified", "last_modified", "created")
File = Mapping[str, Any]
"""A clip's record, of which clip, uri, size and source_id are read; see `sources.Clip`."""


def fetch(clip: File, folder: Path, max_bytes: int) -> Path:
    """A local path to the clip's bytes: a local file itself, a remote one downloaded into `folder` (made if missing).

    Raises MissingClip, NotAVideo, ForbiddenUri (the path has become a symlink), ClipTooLarge (more than `max_bytes`),
    StorageError (the download broke off, or the object has changed since it was listed).
    """
    if not is_remote(clip["uri"]):
        path = Path(clip["uri"])
        if os.path.realpath(path) != clip["uri"]:
            raise ForbiddenUri(clip["clip"], "its path has changed since it was listed", "run again")
        _limit(clip, local_stat(clip["clip"], clip["uri"])[0], max_bytes)
        return path
    _limit(clip, clip["size"], max_bytes)
    path = folder / f"{clip['source_id']}{ending(clip['uri'])[:8]}"
    if not (clip["size"] and path.is_file() and path.stat().st_size == clip["size"]):
        folder.mkdir(parents=True, exist_ok=True)
        _download(clip, path, max_bytes)
    return path


def content_sha256(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_stat(clip: str, path: str) -> tuple[int, str]:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        backslash = "\\" in clip
        remedy = "write it with / instead of \\, relative to the manifest" if backslash else "correct the path"
        raise MissingClip(clip, "there is no such file", f"{remedy}, or remove the row") from error
    except OSError as error:
        raise StorageError(f"clip {clip!r}: can't be read ({error.strerror}); check its permissions") from error
    if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
        raise NotAVideo(clip, "it is no regular file", "remove the row")
    return found.st_size, str(found.st_mtime_ns)


def remote_stat(clip: str, uri: str) -> tuple[int, str]:
    store, path = open_store(uri)
    try:
        info = store.info(path)
    except FileNotFoundError as error:
        raise MissingClip(clip, "there is no such object", "correct the URL or remove the row") from error
    except Exception as error:  # every store has its own classes
        raise StorageError(
            f"clip {clip!r}: its store does not answer ({scrubbed(error)}); check access, try again"
        ) from error
    if info.get("type") == "directory":
        raise NotAVideo(clip, "it is a folder", "name the files in it")
    stamps = (str(info[key]).strip('"') for key in (*ETAGS, *DATES) if info.get(key))
    return int(info.get("size") or 0), next(stamps, "")


def _limit(clip: File, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        problem = f"it has more than {max_bytes / 1e6:,.0f} MB"
        raise ClipTooLarge(clip["clip"], problem, "raise max_megabytes or shorten the clip")


def _download(clip: File, path: Path, max_bytes: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".fetch-")
    try:
        with os.fdopen(handle, "wb") as file:
            size = 0
            for chunk in _chunks(clip):
                size += len(chunk)
                _limit(clip, size, max_bytes)
                file.write(chunk)
        if clip["size"] and size != clip["size"]:
            raise StorageError(f"clip {clip['clip']!r}: {size} bytes came instead of {clip['size']}; run again")
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _chunks(clip: File) -> Iterator[bytes]:
    store, path = open_store(clip["uri"])
    try:
        with store.open(path, "rb") as remote:
            while chunk := remote.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise MissingClip(clip["clip"], "the object is gone", "correct the URL or remove the row") from error
    except Exception as error:  # every store has its own classes
        raise StorageError(f"clip {clip['clip']!r}: the download broke off ({scrubbed(error)}); run again") from error
