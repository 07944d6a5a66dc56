"""From a dataset's settings to clip records: one small JSON record a clip or a failure. Nothing is decoded here."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

from cogvideo_core.errors import (
    BadManifest,
    ClipTooLarge,
    EditError,
    ForbiddenUri,
    MissingClip,
    NotAVideo,
    StorageError,
    about_field,
)
from cogvideo_core.manifests import BadRow, Row, ending, is_manifest, manifest_rows, text_prompts
from cogvideo_core.specs import DatasetSpec, fingerprint
from cogvideo_core.uris import (
    check_uri,
    is_remote,
    is_video,
    local_path,
    open_store,
    parent,
    printable,
    resolve,
    safe_name,
    scrubbed,
    walk_videos,
)

VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})
FOLDER_FILES = ("prompts.txt", "prompts.jsonl", "manifest.jsonl", "manifest.csv", "manifest.parquet")
CHUNK_BYTES = 1 << 20
ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5")
DATES = ("Last-Modified", "mtime", "LastModified", "last_modified", "created")


class Clip(TypedDict):
    """One clip with its wishes. `size` 0 and `stamp` "" mean that the store does not tell them."""

    source_id: str  # 64 hex digits: fingerprint of uri, size, stamp and window
    clip: str  # as the user wrote it
    uri: str  # absolute path (symlinks resolved) or URL
    name: str  # [A-Za-z0-9._-], 1..60 characters
    size: int  # bytes
    stamp: str  # ETag or modification time
    source_prompt: str  # "" when there is none
    target_prompts: list[str]
    first_frame_uri: str  # of the edited first frame, as the user wrote it; "" when there is none
    image_uri: str  # the same as absolute path or URL
    window: int


class Failure(TypedDict):
    """A clip that was not found, or may not be read."""

    clip: str
    stage: str  # "discover"
    error: str  # class name
    kind: str
    message: str
    retryable: bool


class _Place(NamedTuple):
    base: str
    allow_outside: bool
    from_remote: bool


def read_clips(spec: DatasetSpec, need_targets: bool = True) -> Iterator[Clip | Failure]:
    """Stream the clips of a dataset in a stable order, window 0 of each (see `at_window`); a bad one is a Failure.

    - `source` is a manifest (.csv, .jsonl, .parquet): its rows; clips are relative to its folder. `prompts`, if given,
      is a text file whose lines are added to every row's target prompts.
    - `source` is a folder, `prompts` a text file: every video below the folder (hidden names and linked folders left
      out) gets every prompt.
    - `source` is a folder, `prompts` a .jsonl, .csv or .parquet file: the rows name the clips, relative to the folder;
      videos without a row are not edited.
    - `source` is a folder, `prompts` empty: the one file in it that is called prompts.txt, prompts.jsonl or
      manifest.{jsonl,csv,parquet} is used as above.
    A clip without a target prompt is a Failure, and so is a folder without prompts, unless `need_targets` is False.
    Adjacent rows that differ in target prompts alone are merged; rows further apart give two records, whose equal work
    is done once all the same. Raises BadManifest, while iterating, for a file or folder that can't be used as a whole.
    """
    try:
        rows, place = _rows(spec, need_targets)
        found = False
        for row in rows:
            found = True
            yield _failed(row.clip, row.error) if isinstance(row, BadRow) else _clip(row, place)
    except ForbiddenUri as error:
        raise BadManifest(f"source or prompts file can't be used: {error}") from error
    if not found:
        raise BadManifest(f"source {spec.source!r} holds no clips; put videos or rows in it")


def at_window(clip: Clip, window: int) -> Clip:
    """The record of another window of the same clip: same file, another source_id."""
    return {**clip, "window": window, "source_id": _source_id(clip["uri"], clip["size"], clip["stamp"], window)}


def fetch(clip: Clip, folder: Path, max_bytes: int) -> Path:
    """A local path to the clip's bytes: a local file itself, a remote one downloaded into `folder` (made if missing).

    Raises MissingClip, NotAVideo, ForbiddenUri (the path has become a symlink), ClipTooLarge (more than `max_bytes`),
    StorageError (the download broke off, or the object has changed since it was listed).
    """
    if not is_remote(clip["uri"]):
        path = Path(clip["uri"])
        if os.path.realpath(path) != clip["uri"]:
            raise ForbiddenUri(clip["clip"], "its path has changed since it was listed", "run again")
        _limit(clip, _local_stat(clip["clip"], clip["uri"])[0], max_bytes)
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


def _rows(spec: DatasetSpec, need_targets: bool) -> tuple[Iterator[Row | BadRow], _Place]:
    source, prompts = check_uri(spec.source), spec.prompts and check_uri(spec.prompts)
    if is_manifest(source):
        if prompts and is_manifest(prompts):
            raise BadManifest(f"source {source!r} and prompts {prompts!r} both name clips; give one of them")
        place = _Place(parent(source), spec.allow_outside, is_remote(source))
        return manifest_rows(source, text_prompts(prompts) if prompts else (), need_targets), place
    prompts = prompts or _prompts_in(source, spec.allow_outside, need_targets)
    if not prompts:
        return _folder_rows(source, ()), _Place(source, spec.allow_outside, False)
    place = _Place(source, spec.allow_outside, is_remote(prompts))
    if is_manifest(prompts):
        return manifest_rows(prompts, (), need_targets), place
    return _folder_rows(source, tuple(text_prompts(prompts))), place


def _prompts_in(source: str, allow_outside: bool, needed: bool) -> str:
    names = [name for name in FOLDER_FILES if _exists(f"{source.rstrip('/')}/{name}")]
    if len(names) > 1:
        raise BadManifest(f"source {source!r} holds {' and '.join(names)}; keep one of them, or say which in prompts")
    if not names and not needed:
        return ""
    if not names:
        raise BadManifest(
            f"source {source!r} is no folder with a prompts file; "
            f"give prompts, or put one of {', '.join(FOLDER_FILES)} in it"
        )
    resolve(names[0], source, allow_outside)  # a link in a stranger's folder may point at any file of ours
    return f"{source.rstrip('/')}/{names[0]}"


def _exists(uri: str) -> bool:
    if not is_remote(uri):
        return os.path.isfile(local_path(uri))
    store, path = open_store(uri)
    try:
        return bool(store.isfile(path))
    except Exception as error:  # every store has its own classes
        raise BadManifest(f"source {uri!r} can't be read ({scrubbed(error)}); check address and access") from error


def _folder_rows(source: str, prompts: tuple[str, ...]) -> Iterator[Row | BadRow]:
    if is_remote(source):
        for name in _remote_names(source):
            yield Row(name, "", prompts)
        return
    if not os.path.isdir(local_path(source)):
        raise BadManifest(f"source {source!r} is no folder; give a folder of videos or a manifest")
    for found in walk_videos(local_path(source), VIDEO_ENDINGS):
        if isinstance(found, OSError):
            problem = StorageError(f"folder {found.filename!r} can't be read ({found.strerror}); check its permissions")
            yield BadRow(printable(str(found.filename)), problem)
        else:
            yield Row(found, "", prompts)


def _remote_names(source: str) -> list[str]:
    store, path = open_store(source)
    try:
        names = [posixpath.relpath(name, path) for name in store.find(path)]
    except Exception as error:  # every store has its own classes
        raise BadManifest(f"source {source!r} can't be listed ({scrubbed(error)}); check address and access") from error
    return sorted(name for name in names if is_video(name, VIDEO_ENDINGS))


def _clip(row: Row, place: _Place) -> Clip | Failure:
    try:
        uri = resolve(row.clip, *place)
        with about_field(row.clip, "first_frame_uri"):
            image_uri = resolve(row.first_frame_uri, *place) if row.first_frame_uri else ""
        size, stamp = _remote_stat(row.clip, uri) if is_remote(uri) else _local_stat(row.clip, uri)
    except EditError as error:
        return _failed(row.clip, error)
    return Clip(
        source_id=_source_id(uri, size, stamp, 0),
        clip=row.clip,
        uri=uri,
        name=safe_name(row.clip),
        size=size,
        stamp=stamp,
        source_prompt=row.source_prompt,
        target_prompts=list(row.target_prompts),
        first_frame_uri=row.first_frame_uri,
        image_uri=image_uri,
        window=0,
    )


def _source_id(uri: str, size: int, stamp: str, window: int) -> str:
    return fingerprint([uri, size, stamp, window])


def _failed(clip: str, error: EditError) -> Failure:
    return Failure(
        clip=printable(clip[:200]),
        stage="discover",
        error=type(error).__name__,
        kind=error.kind,
        message=printable(str(error)),
        retryable=error.retryable,
    )


def _local_stat(clip: str, path: str) -> tuple[int, str]:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingClip(clip, "there is no such file", "correct the path or remove the row") from error
    except OSError as error:
        raise StorageError(f"clip {clip!r}: can't be read ({error.strerror}); check its permissions") from error
    if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
        raise NotAVideo(clip, "it is no regular file", "remove the row")
    return found.st_size, str(found.st_mtime_ns)


def _remote_stat(clip: str, uri: str) -> tuple[int, str]:
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


def _limit(clip: Clip, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        problem = f"it has more than {max_bytes / 1e6:,.0f} MB"
        raise ClipTooLarge(clip["clip"], problem, "raise max_megabytes or shorten the clip")


def _download(clip: Clip, path: Path, max_bytes: int) -> None:
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


def _chunks(clip: Clip) -> Iterator[bytes]:
    store, path = open_store(clip["uri"])
    try:
        with store.open(path, "rb") as remote:
            while chunk := remote.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise MissingClip(clip["clip"], "the object is gone", "correct the URL or remove the row") from error
    except Exception as error:  # every store has its own classes
        raise StorageError(f"clip {clip['clip']!r}: the download broke off ({scrubbed(error)}); run again") from error
