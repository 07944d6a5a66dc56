"""The edits that are exported: rows of the table with their committed videos, in the table's order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.dataset.spool import in_turn
from cogvideo_core.dataset.tables import iter_table
from cogvideo_core.dataset.videos import IN_DATASET
from cogvideo_core.errors import BadSpec, CorruptObject
from cogvideo_core.exports.outcome import Outcome
from cogvideo_core.exports.spec import ExportSpec, Which, shares_of, split_of
from cogvideo_core.storage.keys import Stage
from cogvideo_core.storage.ledger import Commit, Ledger
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store

Row = dict[str, Any]
# of the table: what only a run's root gives a meaning
NOT_EXPORTED = {"own", "name", "state", "edit_object", "source_object", "file_name", "source_file_name"}
NOT_EXPORTED |= {"saved_evaluations", "edit_bytes", "source_bytes"}
ADDED = ("instruction", "edit_sha256", "source_sha256")
READERS, ROWS_AHEAD = 8, 64
T = TypeVar("T")
R = TypeVar("R")


class Video(NamedTuple):
    """A committed video: its object under the root, bytes, sha256."""

    object: str
    size: int
    sha256: str


class Item(NamedTuple):
    """An edit that is exported."""

    row: Row  # its columns, as exported
    split: str
    number: int  # among the edits of its split, from 0
    edit: Video
    source: Video
    edit_name: str  # videos/<name>-<key>.mp4
    source_name: str

    @property
    def key(self) -> str:
        """Names the edit in a shard: unique in its split, and without dots."""
        return f"{self.number:08d}-{self.row['edit_key'][:12]}"

    @property
    def size(self) -> int:
        return self.edit.size + self.source.size


class _Found(NamedTuple):
    edit: Video
    source: Video
    content: str  # sha256 of the clip's own file


def table_schema(root: str) -> pa.Schema:
    """The columns of the edits' table. Raises BadSpec, CorruptObject as `iter_table` does."""
    next(iter_table(root, "edits", ["edit_key"]), None)  # whose sentences say what is wrong with a table
    fs, path = open_store(url := f"{root}/tables/edits.parquet")
    with storing(url), fs.open(path, "rb") as file:
        return pq.read_schema(file)


def count_wanted(root: str, spec: ExportSpec, schema: pa.Schema) -> int:
    """How many edits the table has to offer. Raises BadSpec for none."""
    names = [name for name in ("kept", "state", "verdict") if name in schema.names]
    every = wanted_rows = 0
    for row in iter_table(root, "edits", names):
        every, wanted_rows = every + 1, wanted_rows + wanted(row, spec.which)
    if not wanted_rows:
        remedy = "run the edits first" if not every else "take others with --which passed or all, or judge again"
        raise BadSpec(f"field root: the table of {root!r} has {every} edits, of which none is to be exported; {remedy}")
    return wanted_rows


def wanted(row: Row, which: Which) -> bool:
    """Whether an edit is exported; tables of earlier versions lack columns."""
    if row.get("state", "done") != "done":
        return False
    if which == "kept":
        return row.get("kept") is not False
    return which == "all" or row.get("verdict") != "rejected"


def items(ledger: Ledger, root: str, spec: ExportSpec, outcome: Outcome) -> Iterator[Item]:
    """The exported edits in the table's order, those that are missing and duplicates counted in `outcome`."""
    shares, look, seen = shares_of(spec.split), _lookup(ledger), set[bytes]()
    numbers = dict.fromkeys(shares, 0)
    rows = (row for row in iter_table(root, "edits") if wanted(row, spec.which))
    with ThreadPoolExecutor(READERS) as pool:
        for row, found in in_turn(pool, lambda row: (row, look(row)), rows, ROWS_AHEAD):
            if isinstance(found, str):
                outcome.leave_out(row["clip"], found)
            elif spec.dedupe and (known := _same(row, found)) in seen:
                outcome.drop_duplicate()
            else:
                seen |= {known} if spec.dedupe else set()
                split = split_of(found.content, shares)
                yield _item(row, found, split, numbers[split])
                numbers[split] += 1


def _lookup(ledger: Ledger) -> Callable[[Row], _Found | str]:
    """Finds the videos of a row in the ledger, or says what is wrong; changes nothing under the root."""

    @lru_cache(maxsize=256)
    def source_of(key: str) -> tuple[Video, str] | str:
        found = _committed(ledger, "sources", key, "source.mp4")
        return found if isinstance(found, str) else (found[0], str(found[1].spec.get("content") or found[0].sha256))

    def look(row: Row) -> _Found | str:
        edit, source = _committed(ledger, "edits", row["edit_key"], "edit.mp4"), source_of(row["source_key"])
        if isinstance(edit, str) or isinstance(source, str):
            return edit if isinstance(edit, str) else str(source)
        return _Found(edit[0], *source)

    return look


def _committed(ledger: Ledger, stage: Stage, key: str, name: str) -> tuple[Video, Commit] | str:
    try:
        commit = ledger.read(stage, key)
        stored = commit.files[name]
        return Video(ledger.object_name(commit, name), stored.size, stored.sha256), commit
    except (FileNotFoundError, KeyError):
        return f"its {stage.rstrip('s')} {str(key)[:12]} is not committed"
    except ValueError as error:
        return f"commit.json of its {stage.rstrip('s')} {str(key)[:12]} {error}"


def _same(row: Row, found: _Found) -> bytes:
    """What duplicates have in common, 16 bytes."""
    told = "\n".join((found.source.sha256, found.edit.sha256, row["target_prompt"]))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()[:16]


def _item(row: Row, found: _Found, split: str, number: int) -> Item:
    names = [_exported_name(row, name) for name in ("file_name", "source_file_name")]
    return Item(_record(row, found), split, number, found.edit, found.source, *names)


def _exported_name(row: Row, field: str) -> str:
    """videos/<name>-<key>.mp4, whichever folder of a large dataset the video is in."""
    if not IN_DATASET.fullmatch(str(row[field])):
        problem = f"clip {row['clip']!r}: the table names its video {row[field]!r}, as no run does"
        raise CorruptObject(f"{problem}; make the table anew with cogvideo-edit collect")
    return f"videos/{row[field].rpartition('/')[2]}"


def _record(row: Row, found: _Found) -> Row:
    told = {name: _plain(value) for name, value in row.items() if name not in NOT_EXPORTED}
    sums = {"edit_sha256": found.edit.sha256, "source_sha256": found.source.sha256}
    return told | {"instruction": instruction_of(row)} | sums


def instruction_of(row: Row) -> str:
    """The user's own column `instruction` of the clip and prompt; the target prompt where there is none."""
    try:
        own = json.loads(row.get("own") or "{}")
    except (ValueError, RecursionError):
        own = {}
    told = own.get("instruction") if isinstance(own, dict) else None
    return told if isinstance(told, str) and told.strip() else str(row["target_prompt"])


def _plain(value: Any) -> Any:
    """The value as JSON can say it: None for numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
