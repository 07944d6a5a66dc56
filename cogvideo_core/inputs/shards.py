"""Sources of several files: patterns such as `shard-{000000..000009}.tar` and `data/train-*.parquet`, folders of
Parquet shards or tars, and what `save_to_disk` of `datasets` writes."""

from __future__ import annotations

import glob
import json
import os
import posixpath
import re
from collections.abc import Iterator
from itertools import product

from cogvideo_core.errors import BadManifest
from cogvideo_core.inputs.lines import opened
from cogvideo_core.inputs.manifests import READERS, ending
from cogvideo_core.media.tools import VIDEO_ENDINGS
from cogvideo_core.storage.uris import (
    is_hidden,
    is_remote,
    local_path,
    open_store,
    path_part,
    protocol,
    resolve,
    scrubbed,
)

SHARDS = (".parquet", ".tar")
NO_SHARDS = ("manifest.parquet", "metadata.parquet")  # they name clips beside them
RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")
MAX_FILES = 100_000
MAX_STATE_BYTES = 16_000_000


def matched(source: str, allow_outside: bool = False) -> list[str]:
    """The files that a pattern stands for, in order; [] for a source that is none.

    `{000..009}` counts, with as many digits; `*`, `?` and `[...]` match names, `**` folders, not over http.
    Raises BadManifest where nothing matches, or what matches holds no rows.
    """
    if not is_remote(source) and os.path.lexists(local_path(source)):
        return []
    spelt = _counted(source)
    wild = [one for one in spelt if glob.has_magic(path_part(one)) and protocol(one) not in ("http", "https")]
    if spelt == [source] and not wild:
        return []
    found = [file for one in spelt for file in (_globbed(one, allow_outside) if one in wild else [one])]
    if not found:
        raise BadManifest(f"source {source!r} does not exist; check the path or pattern")
    if other := next((file for file in found if ending(file) not in READERS), ""):
        remedy = f"match files with rows ({', '.join(READERS)}), or give the folder"
        raise BadManifest(f"source {source!r} matches {other!r}, which is no manifest; {remedy}")
    return found


def shards_in(folder: str, allow_outside: bool = False) -> list[str]:
    """The files with a folder's rows, in order: of `save_to_disk`, or Parquet shards or tars in it or in its `data`.

    [] for a folder of anything else, and for one with videos beside them. Raises BadManifest, ForbiddenUri.
    """
    names = _names(folder)
    if "dataset_dict.json" in names:
        return [file for split in _splits(folder) for file in _saved(f"{folder.rstrip('/')}/{split}", allow_outside)]
    if {"state.json", "dataset_info.json"} <= names:
        return _saved(folder, allow_outside)
    if "data" in names:
        names |= {f"data/{name}" for name in _names(f"{folder.rstrip('/')}/data")}
    if any(ending(name) in VIDEO_ENDINGS for name in names):
        return []
    shards = sorted(name for name in names if ending(name) in SHARDS and name not in NO_SHARDS and not is_hidden(name))
    return [_inside(folder, name, allow_outside) for name in shards]


def _counted(source: str) -> list[str]:
    """A text with `{a..b}` for each number from a to b, of a's digits."""
    parts = RANGE.split(source)  # text, a, b, text, a, b, text
    ranges = [(int(a), int(b), len(a)) for a, b in zip(parts[1::3], parts[2::3], strict=True)]
    count = 1
    for low, high, _ in ranges:
        count *= max(0, high - low + 1)
    if ranges and not 1 <= count <= MAX_FILES:
        raise BadManifest(f"source {source!r} stands for {count} files; count upwards, to {MAX_FILES} files at most")
    texts = [[f"{number:0{digits}d}" for number in range(low, high + 1)] for low, high, digits in ranges]
    return ["".join(_woven(parts[::3], numbers)) for numbers in product(*texts)]


def _woven(texts: list[str], numbers: tuple[str, ...]) -> Iterator[str]:
    for text, number in zip(texts, (*numbers, ""), strict=True):
        yield text
        yield number


def _globbed(pattern: str, allow_outside: bool) -> list[str]:
    if not is_remote(pattern):
        path = local_path(pattern)
        base = path[: re.search(r"[*?\[]", path).start()].rpartition("/")[0] or "/"  # type: ignore[union-attr]
        names = [os.path.relpath(name, base) for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
        return [_inside(base, name, allow_outside) for name in sorted(names)]
    store, path = open_store(pattern)
    try:
        found = sorted(store.glob(path))
    except Exception as error:  # every store has its own classes
        raise BadManifest(
            f"source {pattern!r} can't be listed ({scrubbed(error)}); check address and access"
        ) from error
    return [name if "://" in name else f"{protocol(pattern)}://{name.lstrip('/')}" for name in found]


def _names(folder: str) -> set[str]:
    """Names in a folder; none where it can't be listed, which the reader of its videos will say."""
    try:
        if not is_remote(folder):
            return set(os.listdir(local_path(folder)))
        store, path = open_store(folder)
        return {posixpath.basename(name.rstrip("/")) for name in store.ls(path, detail=False)}
    except Exception:  # every store has its own classes
        return set()


def _splits(folder: str) -> list[str]:
    found = _state(f"{folder.rstrip('/')}/dataset_dict.json", "splits")
    return [str(name) for name in found if _is_name(name)]


def _saved(folder: str, allow_outside: bool) -> list[str]:
    """The Arrow files of a saved data set, in its own order."""
    files = _state(f"{folder.rstrip('/')}/state.json", "_data_files")
    names = [file.get("filename") if isinstance(file, dict) else "" for file in files]
    if not names or not all(_is_name(name) and str(name).endswith(".arrow") for name in names):
        raise BadManifest(f"file {folder.rstrip('/') + '/state.json'!r} names no Arrow files beside it; save it again")
    return [_inside(folder, str(name), allow_outside) for name in names]


def _state(uri: str, field: str) -> list[object]:
    with opened(uri) as file:
        data = file.read(MAX_STATE_BYTES)
    try:
        found = json.loads(data)[field]
        if not isinstance(found, list):
            raise TypeError("no list")
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BadManifest(f"file {uri!r} has no list {field!r} ({str(error)[:80]}); save the data set again") from error
    return found


def _is_name(name: object) -> bool:
    """Whether it names something in the same folder, and nothing else."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\\" not in name


def _inside(folder: str, name: str, allow_outside: bool) -> str:
    """The URI of a file in a folder. Raises ForbiddenUri for a link out: strangers' folders may hold any."""
    resolve(name, folder, allow_outside)
    return f"{folder.rstrip('/')}/{name}"
