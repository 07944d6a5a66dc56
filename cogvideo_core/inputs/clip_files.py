"""One clip's file: its bytes on this machine, wherever it lies."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cogvideo_core.errors import ClipError, ClipTooLarge, ForbiddenUri, MissingClip, StorageError
from cogvideo_core.inputs.frame_folders import wrapped
from cogvideo_core.inputs.inside import Address, parsed
from cogvideo_core.inputs.manifests import ending
from cogvideo_core.inputs.stamps import local_stat, stamped
from cogvideo_core.inputs.tables import cell_chunks
from cogvideo_core.inputs.tars import member_chunks
from cogvideo_core.media.tools import Limits
from cogvideo_core.storage.uris import is_remote, open_store, scrubbed

CHUNK_BYTES = 1 << 20
MOST_SMALL_BYTES = 64_000_000
File = Mapping[str, Any]
"""A clip's record, of which clip, uri, size, stamp and source_id are read; see `sources.Clip`."""


def fetched(clip: File, folder: Path, limits: Limits) -> tuple[Path, str]:
    """(a local path to the clip as one video file, sha256 of its content). See `fetch`; a folder of frames is wrapped
    into a video in `folder`, and its content is that of its pictures."""
    where = parsed(clip["uri"])
    if where is None or where.kind != "frames":
        path = fetch(clip, folder, limits.max_bytes)
        return path, content_sha256(path)
    _still_there(clip, where)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{clip['source_id']}.mov"
    return path, wrapped(clip["clip"], where, clip["stamp"], path, limits)


def fetch(clip: File, folder: Path, max_bytes: int) -> Path:
    """A local path to the clip's bytes: a local file itself, another one copied into `folder` (made if missing), from
    its store, or from the tar or table that it lies in.

    Raises MissingClip, NotAVideo, ForbiddenUri (the path has become a symlink), ClipTooLarge (more than `max_bytes`),
    StorageError (the download broke off, or the object has changed since it was listed).
    """
    where = parsed(clip["uri"])
    if where is not None:
        _still_there(clip, where)
    elif not is_remote(clip["uri"]):
        _check_path(clip, clip["uri"])
        _limit(clip, local_stat(clip["clip"], clip["uri"])[0], max_bytes)
        return Path(clip["uri"])
    _limit(clip, clip["size"], max_bytes)
    path = folder / f"{clip['source_id']}{'' if where else ending(clip['uri'])[:8]}"
    if not (clip["size"] and path.is_file() and path.stat().st_size == clip["size"]):
        folder.mkdir(parents=True, exist_ok=True)
        _download(clip, path, max_bytes)
    return path


def small_file(name: str, uri: str, remedy: str) -> bytes:
    """The bytes of a picture or mask, called so in errors. Raises what `fetch` raises; `remedy` is for a large one."""
    file: File = {"clip": name, "uri": uri, "size": 0, "source_id": "small"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            return fetch(file, Path(folder), MOST_SMALL_BYTES).read_bytes()
    except ClipTooLarge as error:
        raise ClipTooLarge(error.clip, error.problem, remedy) from error


def content_sha256(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_path(clip: File, path: str) -> None:
    if os.path.realpath(path) != path:
        raise ForbiddenUri(clip["clip"], "its path has changed since it was listed", "run again")


def _still_there(clip: File, where: Address) -> None:
    """Raises StorageError where the file that a clip lies in is not the one that was listed: its places may differ."""
    if not is_remote(where.holder):
        _check_path(clip, where.holder)
    if where.kind != "frames" and stamped(clip["clip"], where.holder)[1] != clip["stamp"]:
        raise StorageError(f"clip {clip['clip']!r}: the file it lies in has changed since it was listed; run again")


def _limit(clip: File, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        problem = f"it has more than {max_bytes / 1e6:,.0f} MB"
        raise ClipTooLarge(clip["clip"], problem, "raise max_megabytes or shorten the clip")


def _download(clip: File, path: Path, max_bytes: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".fetch-")
    try:
        with os.fdopen(handle, "wb") as file:
            size = 0
            for chunk in _chunks(clip, max_bytes):
                size += len(chunk)
                _limit(clip, size, max_bytes)
                file.write(chunk)
        if clip["size"] and size != clip["size"]:
            raise StorageError(f"clip {clip['clip']!r}: {size} bytes came instead of {clip['size']}; run again")
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _chunks(clip: File, max_bytes: int) -> Iterator[bytes]:
    where = parsed(clip["uri"])
    return _remote_chunks(clip) if where is None else _inner_chunks(clip, where, max_bytes)


def _inner_chunks(clip: File, where: Address, max_bytes: int) -> Iterator[bytes]:
    try:
        yield from cell_chunks(clip["clip"], where, max_bytes) if where.kind == "cell" else member_chunks(where)
    except ClipError:
        raise
    except Exception as error:  # every store has its own classes
        raise StorageError(
            f"clip {clip['clip']!r}: it can't be read any more ({scrubbed(error)}); run again"
        ) from error


def _remote_chunks(clip: File) -> Iterator[bytes]:
    store, path = open_store(clip["uri"])
    try:
        with store.open(path, "rb") as remote:
            while chunk := remote.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise MissingClip(clip["clip"], "the object is gone", "correct the URL or remove the row") from error
    except Exception as error:  # every store has its own classes
        raise StorageError(f"clip {clip['clip']!r}: the download broke off ({scrubbed(error)}); run again") from error
