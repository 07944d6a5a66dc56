"""Collects edits into the folder that people load: tables, videos, one metadata file, a card, a gallery."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cogvideo_core.dataset.card import dataset_card
from cogvideo_core.dataset.gallery import SHARD, gallery_files
from cogvideo_core.dataset.rows import (
    TABLE_FIELDS,
    TIMING_FIELDS,
    Row,
    edit_rows,
    failure_rows,
    in_order,
    metadata_bytes,
    parquet_bytes,
    source_of,
)
from cogvideo_core.dataset.yields import yield_of
from cogvideo_core.errors import CorruptObject
from cogvideo_core.stages.failures import ERROR_FIELDS
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store, shown_clip

OWN_NAME = re.compile(r"[A-Za-z0-9._-]+-[0-9a-f]{12}(-source)?\.mp4")
TEMPORARY = ".collect-"
COPIES_AT_ONCE = 8


class EditRow(TypedDict):
    """One committed edit."""

    edit_key: str
    trajectory_key: str
    latents_key: str
    source_key: str
    source_id: str
    clip: str
    name: str
    source_prompt: str
    inversion_prompt: str
    target_prompt: str
    first_frame_uri: str  # "" when the edit brought none
    mask: NotRequired[str]  # "" when the edit had none
    negative_prompt: str
    recipe: str
    recipe_fingerprint: str
    model: str
    model_fingerprint: str
    seed: int
    strength: float
    window: int
    start_s: NotRequired[float]  # the part that the window lies in
    end_s: NotRequired[float]  # 0: the clip's end
    frames: int
    height: int  # pixels
    width: int  # pixels
    fps: int
    own: NotRequired[str]  # the user's own columns of the clip and prompt, as JSON
    state: Literal["done", "stopped"]
    scores: dict[str, float]
    verdict: NotRequired[str]  # accepted, rejected, unjudged
    rejected_because: NotRequired[str]
    confidence: NotRequired[float | None]
    saved_evaluations: NotRequired[int]  # of an edit that was given up early
    reviewed: NotRequired[str]  # what a person said, "" where nothing
    rank: NotRequired[int]  # among the candidates of its prompt, 1 for the best
    rank_score: NotRequired[float]
    candidates: NotRequired[int]
    kept: NotRequired[bool]  # whether it is part of dataset/
    edit_object: str  # path or URL of the edit's mp4; "" for one that was given up
    source_object: str  # path or URL of the source's mp4, as the model saw it
    edit_sha256: NotRequired[str]  # what the copies in the dataset are compared with
    source_sha256: NotRequired[str]


class _Target(NamedTuple):
    """A root and its file system."""

    fs: AbstractFileSystem
    path: str

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)


def collect(
    root: str,
    edits: Iterable[EditRow],
    failures: Iterable[dict[str, Any]],
    timings: Iterable[dict[str, Any]],
    about: dict[str, Any],
    gallery: bool = True,
    recheck: bool = False,
) -> dict[str, int]:
    """Write tables/, dataset/ and index.html below `root`, any path or fsspec URL; the same input gives equal bytes.

    Layout of `dataset/`: `datasets` takes its rows from metadata.jsonl alone, and reads each column that ends in
    `_file_name` as a video; so edits and sources share videos/, and the sources make no rows.
    A video already there with the right size (with `recheck`, also the right sha256) is kept; one of ours that no row
    names any more is removed. An edit whose files are gone becomes a failure of the stage "collect". Returns counts:
    edits, clips, errors, copied and kept videos, those of `Yield`, and the evaluations spent on all of them.
    Raises StorageError, and ForbiddenUri for a root that may not be used.
    """
    target, edits = _Target(*open_store(root)), list(edits)
    rows, failed = edit_rows(edits), list(failures)
    passed = [row for row in rows if row["kept"]]
    copies = _copy_videos(target, passed, _digests(edits) if recheck else {})
    whole = [row for row in passed if not copies.missing.intersection(_files(row))]
    failed += [_gone(row, gone) for row in passed if (gone := copies.missing.intersection(_files(row)))]
    errors, out, timings = failure_rows(failed), [row for row in rows if not row["kept"]], list(timings)
    _write_all(target, whole, out, errors, timings, about, gallery)
    _remove_stale(target, {name for row in whole for name in _files(row)})
    clips = len({source_of(row) for row in whole})
    counts = {"edits": len(whole), "clips": clips, "errors": len(errors)}
    of = yield_of([*whole, *out])
    counts |= {"rejected": of.rejected, "stopped": of.stopped, "surpassed": of.surpassed}
    counts |= {"saved_evaluations": of.saved_evaluations, "spent": sum(row["evaluations"] for row in timings)}
    return counts | {"copied": copies.copied, "kept": copies.kept}


def _files(row: Row) -> tuple[str, str]:
    return row["file_name"], row["source_file_name"]


class _Copies(NamedTuple):
    missing: set[str]
    copied: int
    kept: int


def _digests(edits: Iterable[EditRow]) -> dict[str, str]:
    """sha256 of the objects that videos are copied from."""
    found = {row["edit_object"]: row.get("edit_sha256", "") for row in edits if row["edit_object"]}
    found |= {row["source_object"]: row.get("source_sha256", "") for row in edits}
    return {uri: sha256 for uri, sha256 in found.items() if sha256}


def _copy_videos(target: _Target, rows: list[Row], digests: dict[str, str]) -> _Copies:
    jobs = {row["source_file_name"]: row["source_object"] for row in rows}
    jobs |= {row["file_name"]: row["edit_object"] for row in rows}
    have = _sizes(target)
    if target.local:
        os.makedirs(f"{target.path}/dataset/videos", exist_ok=True)
    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        copy = partial(_copy, target, have, digests)
        done = dict(zip(jobs, pool.map(copy, jobs, jobs.values()), strict=True))
    found = list(done.values())
    return _Copies({name for name in done if done[name] == "missing"}, found.count("copied"), found.count("kept"))


def _sizes(target: _Target) -> dict[str, int]:
    """Sizes in bytes of the files in dataset/videos, by name relative to dataset/."""
    with storing("dataset/videos"):
        try:
            found = target.fs.ls(f"{target.path}/dataset/videos", detail=True, refresh=True)
        except FileNotFoundError:
            return {}
    return {f"videos/{info['name'].rpartition('/')[2]}": info["size"] for info in found if info["type"] == "file"}


def _copy(
    target: _Target, have: dict[str, int], digests: dict[str, str], name: str, uri: str
) -> Literal["kept", "copied", "missing"]:
    fs, path = open_store(uri)
    final, good = f"{target.path}/dataset/{name}", digests.get(uri)
    with storing(name):
        try:
            if fs.info(path)["size"] == have.get(name) and (good is None or _sha256(target.fs, final) == good):
                return "kept"
            _copy_file(fs, path, target, final)
        except FileNotFoundError:
            return "missing"
    return "copied"


def _sha256(fs: AbstractFileSystem, path: str) -> str:
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy_file(fs: AbstractFileSystem, path: str, target: _Target, final: str) -> None:
    if fs is target.fs and not target.local:
        fs.cp_file(path, final)
        return
    folder = os.path.dirname(final) if target.local else tempfile.gettempdir()
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
    try:
        with fs.open(path, "rb") as source, os.fdopen(handle, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        _publish(target, temporary, final)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _publish(target: _Target, temporary: str, final: str) -> None:
    if target.local:
        os.chmod(temporary, 0o644)  # only the owner can read mkstemp's files
        os.replace(temporary, final)
    else:
        target.fs.put_file(temporary, final)


def _gone(row: Row, files: set[str]) -> Row:
    message = f"clip {row['clip']!r}: the committed file of {' and '.join(sorted(files))} is gone; run again"
    lost = CorruptObject(message)
    about = {"error": type(lost).__name__, "kind": lost.kind, "message": message, "retryable": True}
    return {"clip": row["clip"], "stage": "collect", "attempts": 1, **about}


def _write_all(
    target: _Target,
    rows: list[Row],
    rejected: list[Row],
    errors: list[Row],
    timings: list[Row],
    about: dict[str, Any],
    gallery: bool,
) -> None:
    objects = ("edit_object", "source_object")
    table = [row | {k: _relative(target, row[k]) for k in objects} for row in in_order(rows + rejected)]
    timings = [row | {"clip": shown_clip(row["clip"])} if "clip" in row else row for row in timings]
    _write(target, "tables/edits.parquet", parquet_bytes(table, TABLE_FIELDS))
    _write(target, "tables/errors.parquet", parquet_bytes(errors, ERROR_FIELDS))
    _write(target, "tables/timings.parquet", parquet_bytes(timings, TIMING_FIELDS))
    _write(target, "dataset/metadata.jsonl", metadata_bytes(rows))
    _write(target, "dataset/README.md", dataset_card(rows, errors, about, rejected).encode())
    if gallery:
        _write_gallery(target, table, errors, about)


def _write_gallery(target: _Target, rows: Iterable[Row], errors: Iterable[Row], about: dict[str, Any]) -> None:
    """Its files, index.html last, then without those that only an earlier, larger gallery had."""
    written = set()
    for name, data in gallery_files(rows, errors, about):
        _write(target, name, data)
        written.add(name.removeprefix("gallery/"))
    for name in _gallery_names(target):
        if SHARD.fullmatch(name) and name not in written:
            with storing(f"gallery/{name}"):
                target.fs.rm_file(f"{target.path}/gallery/{name}")


def _gallery_names(target: _Target) -> list[str]:
    with storing("gallery"):
        try:
            found = target.fs.ls(f"{target.path}/gallery", detail=False, refresh=True)
        except FileNotFoundError:
            return []
    return [name.rpartition("/")[2] for name in found]


def _relative(target: _Target, uri: str) -> str:
    """An object's path relative to the root, so that the root can be moved; elsewhere, its full address."""
    if not uri:
        return ""
    fs, path = open_store(uri)
    inside = type(fs) is type(target.fs) and path.startswith(f"{target.path.rstrip('/')}/")
    return path[len(target.path.rstrip("/")) + 1 :] if inside else uri


def _write(target: _Target, name: str, data: bytes) -> None:
    final = f"{target.path}/{name}"
    with storing(name):
        if not target.local:
            target.fs.pipe_file(final, data)
            return
        os.makedirs(os.path.dirname(final), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(final), prefix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as sink:
                sink.write(data)
            _publish(target, temporary, final)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _remove_stale(target: _Target, wanted: set[str]) -> None:
    for name in _sizes(target):
        if name not in wanted and OWN_NAME.fullmatch(name.removeprefix("videos/")):
            with storing(name):
                target.fs.rm_file(f"{target.path}/dataset/{name}")
