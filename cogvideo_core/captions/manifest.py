"""The manifest that is written: one line of JSON for each edit, which a run reads as it is and a person may edit.

A manifest that is there already is only replaced where it is, byte for byte, one that was written here.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cogvideo_core.errors import BadSpec
from cogvideo_core.inputs import masks
from cogvideo_core.inputs.clip_files import content_sha256
from cogvideo_core.inputs.manifests import Row, is_manifest, manifest_rows
from cogvideo_core.inputs.shards import matched, shards_in
from cogvideo_core.inputs.sources import FOLDER_FILES, Clip, Failure, read_clips
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.opening import open_objects
from cogvideo_core.storage.uris import check_uri, is_remote, local_path, open_store, parent, protocol, shown_clip

ENDING = ".jsonl"
FORMAT = 1
ANY_PROMPT = "any"  # in place of target prompts, with which a row keeps its own columns
ERROR_COLUMNS = ("clip", "stage", "error", "kind", "message", "retryable")
Record = dict[str, Any]


def answers_of(out: str) -> str:
    """The root of the ledger beside a manifest that keeps the answers it was made from."""
    return f"{out}.answers"


def errors_of(out: str) -> str:
    """The report of the clips that are not in a manifest, in a place that is ours."""
    return f"{answers_of(out)}/errors{ENDING}"


def check_out(dataset: DatasetSpec, out: str, overwrite: bool, ledger: Ledger) -> None:
    """Raises BadSpec for a manifest that can't be written there, or may not be: one that a person has edited."""
    check_uri(out)
    where, inputs = _absolute(out), [_absolute(uri) for uri in (dataset.source, dataset.prompts) if uri]
    if not out.lower().endswith(ENDING):
        raise BadSpec(f"field out: {out!r} is no .jsonl file; give a name that ends so")
    if where in inputs:
        raise BadSpec(f"field out: {out!r} is the input itself; give another name")
    if posixpath.basename(where) in FOLDER_FILES and posixpath.dirname(where) == inputs[0]:
        raise BadSpec(f"field out: {out!r} would be read as its folder's own list; give a name such as edits.jsonl")
    if not overwrite and _exists(out) and not _ours(out, ledger):
        raise BadSpec(
            f"field out: {out!r} was not written by this command, or was edited since; give another name or --overwrite"
        )


def clips_of(dataset: DatasetSpec) -> Iterator[Clip | Failure]:
    """`read_clips`, target prompts not needed, as many as the dataset says. A row without target prompts keeps its
    settings and own columns, as the one text of `overrides` and of `own`."""
    clips, files = read_clips(dataset, need_targets=False), _listed_in(dataset)
    rows = (row for file in files for row in manifest_rows(file, (ANY_PROMPT,), need_targets=False))
    for clip in islice(clips, dataset.limit or None):
        row = next(rows, None)
        if "error" not in clip and not clip["own"] and isinstance(row, Row) and row.clip == clip["clip"]:
            yield {**clip, "own": list(row.own[:1]), "overrides": list(row.overrides[:1])}
        else:
            yield clip


def _listed_in(dataset: DatasetSpec) -> list[str]:
    """The files of rows that name the dataset's clips."""
    if dataset.prompts and is_manifest(dataset.prompts):
        return [dataset.prompts]
    inside = (f"{dataset.source.rstrip('/')}/{name}" for name in FOLDER_FILES if is_manifest(name))
    return _sources(dataset) or [uri for uri in inside if _exists(uri)]


def _sources(dataset: DatasetSpec) -> list[str]:
    """The files of rows that the source is, or that lie in it as shards: their clips are relative to their folder."""
    source, prompts = dataset.source, dataset.prompts
    files = matched(source, dataset.allow_outside) or ([source] if is_manifest(source) else [])
    inside = (f"{source.rstrip('/')}/{name}" for name in FOLDER_FILES)
    if files or (prompts and is_manifest(prompts)) or (not prompts and any(map(_exists, inside))):
        return files
    return shards_in(source, dataset.allow_outside)


def _folder_of(dataset: DatasetSpec) -> str:
    """What relative clips are relative to. Raises BadSpec where that is several folders."""
    folders = {parent(file) for file in _sources(dataset)} or {dataset.source}
    if len(folders) > 1:
        raise BadSpec(
            f"field dataset.source: the rows of {dataset.source!r} lie in several folders; give those of one folder"
        )
    return folders.pop()


def base_of(dataset: DatasetSpec, out: str) -> tuple[str, bool]:
    """(what stands before relative clips in the manifest, whether a run needs the clips' folder named beside it)."""
    base, folder = _folder_of(dataset), parent(out)
    if is_remote(base) or is_remote(out):
        base, folder = base.rstrip("/") + "/", folder.rstrip("/") + "/"
        return (base.removeprefix(folder), False) if base.startswith(folder) else ("", True)
    way = os.path.relpath(local_path(base), local_path(folder))
    return ("", True) if way.startswith("..") else ("" if way == "." else f"{way}/", False)


def run_words(dataset: DatasetSpec, out: str) -> list[str]:
    """What follows `cogvideo-edit run` to edit by the manifest."""
    words = [_folder_of(dataset), "--prompts", out] if base_of(dataset, out)[1] else [out]
    return words + (["--set", "dataset.allow_outside=true"] if dataset.allow_outside else [])


def rows_of(record: Record, before: str) -> Iterator[Record]:
    """The manifest's rows of a described clip, in the order of its edits."""
    for edit in record["edits"]:
        about = {"clip": _placed(record["clip"], before), "source_prompt": record["source_prompt"]}
        about |= {"target_prompt": edit["target_prompt"]} if "target_prompt" in edit else {}
        if record["first_frame_uri"]:
            about["first_frame_uri"] = _placed(record["first_frame_uri"], before)
        about |= {name: record[f"{name}_s"] for name in ("start", "end") if record.get(f"{name}_s")}
        if mask := record.get("mask", ""):
            about["mask"] = _placed(mask, before) if masks.is_file(mask) else mask
        yield about | {name: value for name, value in edit.items() if name not in about}


def error_row(record: Record) -> Record:
    """The report's row of a clip that failed."""
    return {name: record.get(name, "") for name in ERROR_COLUMNS} | {"clip": shown_clip(record["clip"])}


def write_lines(out: str, rows: Iterable[Record], ledger: Ledger | None = None) -> int:
    """Writes rows as JSON lines, whole or not at all; with a ledger, notes that these bytes are ours. Returns how many:
    without any, nothing is written. Raises StorageError.
    """
    with tempfile.TemporaryDirectory() as folder, storing(out):
        draft, count = Path(folder) / "rows.jsonl", 0
        with draft.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        if not count:
            return 0
        if ledger is not None:
            about = _written(content_sha256(draft))
            ledger.commit("answers", fingerprint(about), {}, about, {})
        _put(draft, out)
    return count


def remove(out: str) -> None:
    """Removes a file; a missing one is no error. Raises StorageError."""
    fs, path = open_store(out)
    with storing(out):
        if fs.exists(path):
            fs.rm_file(path)


def _put(draft: Path, out: str) -> None:
    fs, path = open_store(out)
    if is_remote(out):
        fs.put_file(str(draft), path)
        return
    target = Path(local_path(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        shutil.copyfile(draft, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _placed(clip: str, before: str) -> str:
    """The clip as the manifest names it: addresses and absolute paths as they are."""
    return clip if protocol(clip) or clip.startswith("/") else posixpath.normpath(before + clip) if before else clip


def _absolute(uri: str) -> str:
    return uri.rstrip("/") if is_remote(uri) else local_path(uri)


def _exists(uri: str) -> bool:
    fs, path = open_store(uri)
    with storing(uri):
        return bool(fs.exists(path))


def _written(sha256: str) -> Record:
    return {"format": FORMAT, "manifest": sha256}


def _ours(out: str, ledger: Ledger) -> bool:
    folder, _, name = _absolute(out).rpartition("/")
    try:
        digest = open_objects(folder).digest(name)[1]
    except FileNotFoundError:  # it is a folder
        return False
    return ledger.find("answers", fingerprint(_written(digest)), "none") is not None
