"""From a dataset's settings to clip records: one small JSON record per clip or failure. Nothing is decoded."""

from __future__ import annotations

import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, TypedDict

from cogvideo_core.errors import (
    BadManifest,
    EditError,
    ForbiddenUri,
    StorageError,
    about_field,
)
from cogvideo_core.inputs import frame_folders, masks
from cogvideo_core.inputs.captions import caption_rows, has_captions
from cogvideo_core.inputs.columns import Inside
from cogvideo_core.inputs.manifests import BadRow, Row, ending, is_manifest, manifest_rows, text_prompts
from cogvideo_core.inputs.recipe_columns import with_recipe
from cogvideo_core.inputs.shards import matched, shards_in
from cogvideo_core.inputs.stamps import stamped
from cogvideo_core.inputs.tars import no_compressed
from cogvideo_core.media.tools import VIDEO_ENDINGS
from cogvideo_core.settings.specs import DatasetSpec, fingerprint
from cogvideo_core.storage.uris import (
    check_uri,
    has_control,
    is_hidden,
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

logger = logging.getLogger(__name__)
# video files that are not read: a warning counts those in a folder, so that nobody misses them
OTHER_ENDINGS = frozenset({".3gp", ".asf", ".flv", ".m2v", ".mpeg", ".mpg", ".mxf", ".ogv", ".vob", ".wmv"})
FOLDER_FILES = ("prompts.txt", "prompts.jsonl", "manifest.jsonl", "manifest.csv", "manifest.parquet")


class Clip(TypedDict):
    """One clip and its wanted edits. `size` 0 and `stamp` "": the store does not report them."""

    source_id: str  # 64 hex digits: fingerprint of uri, size, stamp, window, and the part where one is given
    clip: str  # as the user wrote it
    uri: str  # absolute path (symlinks resolved) or URL; or an address (`inside`)
    name: str  # [A-Za-z0-9._-], 1..60 characters
    size: int  # bytes
    stamp: str  # ETag or modification time
    source_prompt: str  # "" when there is none
    target_prompts: list[str]
    first_frame_uri: str  # of the edited first frame, as the user wrote it; "" when there is none
    image_uri: str  # the same as absolute path or URL
    mask: str  # as `masks.mask_text` has it; "" when there is none
    mask_uri: str  # absolute path or URL of its file; "" for boxes, and where it is to be found
    window: int
    own: list[str]  # the user's own columns as JSON, one for each target prompt
    overrides: list[str]  # of the run's recipe, one for each target prompt; "" for none
    start_s: float  # the part that windows are placed in, from the video's first frame on
    end_s: float  # 0: to the clip's end


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


_Part = tuple[Iterator[Row | BadRow], _Place]
"""Rows, and what their clips are relative to."""


def read_clips(spec: DatasetSpec, need_targets: bool = True) -> Iterator[Clip | Failure]:
    """Stream the clips of a dataset in a stable order, window 0 of each (see `at_window`); a bad one is a Failure.

    - `source` is a file of rows (`manifests.READERS`) or a pattern for several: clips are relative to its folder.
      `prompts`, if given, is a text file whose lines are added to every row's target prompts.
    - `source` is a folder, `prompts` a text file: every video below the folder (hidden names and linked folders left
      out) gets every prompt; so does every folder of numbered pictures below it, which is a clip.
    - `source` is a folder, `prompts` a file of rows: they name the clips, relative to the folder; videos without a row
      are not edited.
    - `source` is a folder, `prompts` empty: the one file in it that is called prompts.txt, prompts.jsonl or
      manifest.{jsonl,csv,parquet} is used as above.
    - `source` is a folder with videos.txt and prompts.txt: a clip and its caption a line; or with Parquet shards, tars
      or a saved data set (`shards`): their rows. `prompts` may add target prompts.
    A clip without a target prompt is a Failure, and so is a folder without prompts, unless `need_targets` is False.
    Adjacent rows that differ in target prompts, overrides and own columns alone are merged. Equal rows that are not
    adjacent give two records; their work has the same key, and is done once. Raises BadManifest, while iterating, for a
    file or folder that can't be used.
    """
    try:
        found, recipes = False, dict[str, str]()  # the recipe files that were read, by address
        for rows, place in _parts(spec, need_targets):
            for row in rows:
                found = True
                if isinstance(row, BadRow):
                    yield _failed(row.clip, row.error)
                else:
                    yield _clip(row, place, spec.frames_fps, recipes)
    except ForbiddenUri as error:
        raise BadManifest(f"source or prompts file can't be used: {error}") from error
    if not found:
        raise BadManifest(f"source {spec.source!r} holds no clips; put videos or rows in it")


def at_window(clip: Clip, window: int) -> Clip:
    """The record of another window of the same clip: same file, another source_id."""
    about, part = (clip["uri"], clip["size"], clip["stamp"]), (clip["start_s"], clip["end_s"])
    return {**clip, "window": window, "source_id": _source_id(*about, window, part)}


def _parts(spec: DatasetSpec, need_targets: bool) -> Iterator[_Part]:
    """The source's files of rows, or its folder."""
    source, prompts = check_uri(spec.source), spec.prompts and check_uri(spec.prompts)
    no_compressed(source)
    files = matched(source, spec.allow_outside) or ([source] if is_manifest(source) else [])
    if files and prompts and is_manifest(prompts):
        raise BadManifest(f"source {source!r} and prompts {prompts!r} both name clips; give one of them")
    if files:
        extra = tuple(text_prompts(prompts)) if prompts else ()
        yield from _of_files(files, spec.allow_outside, extra, need_targets)
        return
    captioned = not (prompts and is_manifest(prompts)) and has_captions(_exists, source)
    prompts = prompts or ("" if captioned else _prompts_in(source, spec.allow_outside))
    place = _Place(source, spec.allow_outside, bool(prompts) and is_remote(prompts))
    if prompts and is_manifest(prompts):
        yield manifest_rows(prompts, (), need_targets), place
        return
    extra = tuple(text_prompts(prompts)) if prompts else ()
    if captioned:
        place = _Place(source, spec.allow_outside, is_remote(source))
        yield caption_rows(source, spec.allow_outside, extra, need_targets), place
    elif files := shards_in(source, spec.allow_outside):
        yield from _of_files(files, spec.allow_outside, extra, need_targets)
    elif extra or not need_targets:
        yield _folder_rows(source, extra), place
    else:
        names = ", ".join(FOLDER_FILES)
        raise BadManifest(
            f"source {source!r} is no folder with a prompts file; give prompts, or put one of {names} in it"
        )


def _of_files(files: list[str], allow_outside: bool, extra: tuple[str, ...], need_targets: bool) -> Iterator[_Part]:
    for file in files:
        yield manifest_rows(file, extra, need_targets), _Place(parent(file), allow_outside, is_remote(file))


def _prompts_in(source: str, allow_outside: bool) -> str:
    """The one file in a folder that says what to do with it, "" for none."""
    if not is_remote(source) and not os.path.exists(local_path(source)):
        raise BadManifest(f"source {source!r} does not exist; give a folder of videos or a manifest")
    names = [name for name in FOLDER_FILES if _exists(f"{source.rstrip('/')}/{name}")]
    if len(names) > 1:
        raise BadManifest(f"source {source!r} holds {' and '.join(names)}; keep one of them, or say which in prompts")
    if not names:
        return ""
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
    skipped: Counter[str] = Counter()
    for found in walk_videos(local_path(source), VIDEO_ENDINGS, skipped, frame_folders.is_frames):
        if isinstance(found, OSError):
            problem = StorageError(f"folder {found.filename!r} can't be read ({found.strerror}); check its permissions")
            yield BadRow(printable(str(found.filename)), problem)
        else:
            yield Row(found, "", prompts)
    _tell_skipped(source, skipped)


def _tell_skipped(source: str, skipped: Counter[str]) -> None:
    if others := {ending: count for ending, count in skipped.items() if ending in OTHER_ENDINGS}:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        logger.warning("source %r: %d videos of other kinds are skipped (%s)", source, sum(others.values()), kinds)


def _remote_names(source: str) -> list[str]:
    store, path = open_store(source)
    try:
        names = [posixpath.relpath(name, path) for name in store.find(path)]
    except Exception as error:  # every store has its own classes
        raise BadManifest(f"source {source!r} can't be listed ({scrubbed(error)}); check address and access") from error
    _tell_skipped(source, Counter(ending(name) for name in names if not is_hidden(name)))
    return sorted(name for name in names if is_video(name, VIDEO_ENDINGS))


def _clip(row: Row, place: _Place, usual_fps: float, recipes: dict[str, str]) -> Clip | Failure:
    try:
        uri, size, stamp = _found(row, place, usual_fps)
        with about_field(row.clip, "first_frame_uri"):
            image_uri = resolve(row.first_frame_uri, *place) if row.first_frame_uri else ""
        with about_field(row.clip, "mask"):
            mask_uri = resolve(row.mask, *place) if masks.is_file(row.mask) else ""
        overrides = [with_recipe(row.clip, override, place, recipes) for override in row.overrides]
    except EditError as error:
        return _failed(row.clip, error)
    return Clip(
        source_id=_source_id(uri, size, stamp, 0, row.part),
        clip=row.clip,
        uri=uri,
        name=safe_name(row.clip),
        size=size,
        stamp=stamp,
        source_prompt=row.source_prompt,
        target_prompts=list(row.target_prompts),
        first_frame_uri=row.first_frame_uri,
        image_uri=image_uri,
        mask=row.mask,
        mask_uri=mask_uri,
        window=0,
        own=list(row.own),
        overrides=overrides,
        start_s=row.part[0],
        end_s=row.part[1],
    )


def _source_id(uri: str, size: int, stamp: str, window: int, part: tuple[float, float]) -> str:
    return fingerprint([uri, size, stamp, window, *(part if any(part) else ())])


def _found(row: Row, place: _Place, usual_fps: float) -> Inside:
    """Where a row's clip lies, and what its store says of it."""
    if row.inside is not None:
        if has_control(row.clip):
            raise ForbiddenUri(printable(row.clip[:200]), "its name has control characters", "rename it")
        return row.inside
    uri = resolve(row.clip, *place)
    if not is_remote(uri) and os.path.isdir(uri):
        return frame_folders.located(row.clip, uri, row.fps, usual_fps)
    return Inside(uri, *stamped(row.clip, uri))


def _failed(clip: str, error: EditError) -> Failure:
    return Failure(
        clip=printable(clip[:200]),
        stage="discover",
        error=type(error).__name__,
        kind=error.kind,
        message=printable(str(error)),
        retryable=error.retryable,
    )
