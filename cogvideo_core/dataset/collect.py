"""Collects edits into the folder that people load: tables, videos, metadata, a card, a gallery.

However many edits there are, a few thousand are in memory at a time; the others are in a `Spool`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyarrow as pa

from cogvideo_core.dataset import metadata, pages, videos
from cogvideo_core.dataset.columns import GROUP, Columns, ParquetRows, parts, write_rows
from cogvideo_core.dataset.edit_row import EditRow
from cogvideo_core.dataset.rows import (
    FILES,
    TABLE_FIELDS,
    TIMING_FIELDS,
    Row,
    Shape,
    edit_row,
    failure_row,
    folder_of,
    in_folder,
    order_of,
)
from cogvideo_core.dataset.spool import Spool, packed, unpacked
from cogvideo_core.dataset.target import Target
from cogvideo_core.dataset.yields import Tally
from cogvideo_core.errors import CorruptObject
from cogvideo_core.stages.failures import ERROR_FIELDS
from cogvideo_core.storage.uris import shown_clip

__all__ = ["EditRow", "collect", "collect_into"]

AT_ONCE = 1_000  # rows that are spooled together
MANY = 10_000  # edits; above it a dataset has many folders and Parquet metadata
ORDER = "clip, start_s, end_s, part, prompt, recipe, seed, strength, edit_key, source_id"
SCHEMA = f"""
CREATE TABLE edits ({ORDER}, shard TEXT, row TEXT, PRIMARY KEY ({ORDER})) WITHOUT ROWID;
CREATE TABLE errors (clip TEXT, stage TEXT, message TEXT, row TEXT);
CREATE TABLE timings (row TEXT);
{videos.SCHEMA}
"""
ADD_EDIT = "INSERT OR REPLACE INTO edits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
TIMINGS = "SELECT row FROM timings ORDER BY rowid"
ADD_ERROR = "INSERT INTO errors VALUES (?, ?, ?, ?)"


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

    `edits` is iterated before `failures`, and both once. Layout of `dataset/`: `datasets` takes its rows from the
    metadata alone, and reads each column that ends in `_file_name` as a video; so edits and sources share folders, and
    the sources make no rows. Up to `MANY` edits, kept or not, there is one metadata.jsonl and one folder videos/;
    above, videos/<two letters>/ with a metadata.parquet each, the letters being the first of the source's key.
    A video already there with the right size (with `recheck`, also the right sha256) is kept; one of ours that no row
    names any more is removed. An edit whose files are gone becomes a failure of the stage "collect". Returns counts:
    edits, clips, errors, copied and kept videos, those of `Yield`, and the evaluations spent on all of them.
    Raises StorageError, and ForbiddenUri for a root that may not be used.
    """
    return collect_into(Target.of(root), edits, failures, timings, about, gallery, Videos(recheck))


class Videos(NamedTuple):
    """How videos come into the dataset."""

    recheck: bool = False  # whether those that are there are compared with their sha256
    linked: bool = False  # hard links instead of copies, where the disk can
    placing: videos.Placing | None = None  # who copies; None: threads of this process


def collect_into(
    target: Target,
    edits: Iterable[EditRow],
    failures: Iterable[dict[str, Any]],
    timings: Iterable[dict[str, Any]],
    about: dict[str, Any],
    gallery: bool = True,
    how: Videos = Videos(),  # noqa: B008 - immutable
) -> dict[str, int]:
    """As `collect`, into a target that knows afterwards what was written."""
    with Spool(SCHEMA) as spool:
        shape, count = _gathered(target, spool, edits, how)
        _add_errors(spool, failures)
        clock, spent = _add_timings(spool, timings)
        copies = videos.place_videos(target, spool, count > MANY, how.linked, how.placing)
        edited = Edited(spool, shape, count > MANY, copies.missing)
        _add_errors(spool, _gone(edited))
        tally = _write_edits(target, edited)
        errors = _write_table(target, "tables/errors.parquet", _errors(spool), ERROR_FIELDS)
        _write_table(target, "tables/timings.parquet", map(_unpacked, spool.rows(TIMINGS)), clock)
        pages.write_card(target, tally, _errors(spool), errors, about, edited.spread)
        if gallery:
            pages.write_gallery(target, edited.table(), _errors(spool), about)
        videos.remove_stale(target, spool, edited.spread, edited.unused())
    of = tally.yielded
    counts = {"edits": of.kept, "clips": tally.clips, "errors": errors}
    counts |= {"rejected": of.rejected, "stopped": of.stopped, "surpassed": of.surpassed}
    counts |= {"saved_evaluations": of.saved_evaluations, "spent": spent}
    return counts | {"copied": copies.copied, "kept": copies.kept}


class Edited:
    """The rows of the tables, as often as they are asked for; those whose videos are gone are left out."""

    def __init__(self, spool: Spool, shape: Shape, spread: bool, missing: set[str]) -> None:
        self.spool, self.spread, self.missing = spool, spread, missing
        self.fields = TABLE_FIELDS | shape.fields()
        self.flat: Callable[[Row], Row] = shape.flat()

    def table(self) -> Iterator[Row]:
        """All rows in the tables' order."""
        return (row for row in self._every(f"SELECT row FROM edits ORDER BY {ORDER}") if self._whole(row))

    def in_folders(self) -> Iterator[tuple[str, Row]]:
        """(folder of a large dataset, row) of the kept rows, folder by folder, each in the tables' order."""
        rows = self._every(f"SELECT row FROM edits ORDER BY shard, {ORDER}")
        return ((row["source_key"][:2], row) for row in rows if row["kept"] and self._whole(row))

    def gone(self) -> Iterator[Row]:
        """Rows that should be in the dataset, and whose videos are gone."""
        if self.missing:
            rows = self._every(f"SELECT row FROM edits ORDER BY {ORDER}")
            yield from (row for row in rows if not self._whole(row))

    def unused(self) -> set[str]:
        """Names of videos that only such rows have."""
        names = {_base(name) for row in self.gone() for name in _files(row)}
        for row in self.table() if names else ():
            names.difference_update(_base(name) for name in _files(row) if row["kept"])
        return names

    def _every(self, query: str) -> Iterator[Row]:
        for (text,) in self.spool.rows(query):
            row = self.flat(unpacked(text))
            yield in_folder(row, folder_of(row)) if self.spread else row

    def _whole(self, row: Row) -> bool:
        return not (self.missing and row["kept"] and self.missing.intersection(map(_base, _files(row))))


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _files(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in FILES)


def _unpacked(values: tuple[Any, ...]) -> Row:
    return dict(unpacked(values[0]))


def _gathered(target: Target, spool: Spool, edits: Iterable[EditRow], how: Videos) -> tuple[Shape, int]:
    """Fills the tables `edits` and `jobs`; the columns of the rows, and how many there are."""
    shape = Shape()
    for part in parts(edits, AT_ONCE):
        rows, jobs = [], []
        for edit in part:
            row = edit_row(edit)
            shape.add(row)
            inside = {name: target.relative(row[name]) for name in ("edit_object", "source_object")}
            rows.append((*order_of(row), row["source_key"][:2], packed(row | inside)))
            jobs += _jobs(row, edit, how.recheck) if row["kept"] else []
        spool.add(ADD_EDIT, rows)
        spool.add(videos.ADD_JOB, jobs)
    return shape, spool.one("SELECT count(*) FROM edits")


def _jobs(row: Row, edit: Mapping[str, Any], recheck: bool) -> list[tuple[Any, ...]]:
    return [
        (
            _base(row[name]),
            row["source_key"][:2],
            row[f"{what}_object"],
            row[f"{what}_bytes"],
            edit.get(f"{what}_sha256", "") if recheck else "",
        )
        for what, name in (("source", "source_file_name"), ("edit", "file_name"))
    ]


def _add_errors(spool: Spool, failures: Iterable[Mapping[str, Any]]) -> None:
    rows = map(failure_row, failures)
    spool.add(ADD_ERROR, ((row["clip"], row["stage"], row["message"], packed(row)) for row in rows))


def _errors(spool: Spool) -> Iterator[Row]:
    return map(_unpacked, spool.rows("SELECT row FROM errors ORDER BY clip, stage, message, rowid"))


def _add_timings(spool: Spool, timings: Iterable[dict[str, Any]]) -> tuple[dict[str, pa.DataType], int]:
    """Fills the table `timings`; their columns, and the evaluations they add up to."""
    others, spent = Columns(), 0
    for part in parts(timings, GROUP):
        rows = [row | {"clip": shown_clip(row["clip"])} if "clip" in row else row for row in part]
        for row in rows:
            spent += row["evaluations"]
            for name in row.keys() - TIMING_FIELDS.keys():
                others.add(name, row[name])
        spool.add("INSERT INTO timings VALUES (?)", ((packed(row),) for row in rows))
    return TIMING_FIELDS | others.types(), spent


def _gone(edited: Edited) -> Iterator[Row]:
    for row in edited.gone():
        files = sorted(name for name in _files(row) if _base(name) in edited.missing)
        message = f"clip {row['clip']!r}: the committed file of {' and '.join(files)} is gone; run again"
        lost = CorruptObject(message)
        about = {"error": type(lost).__name__, "kind": lost.kind, "message": message, "retryable": True}
        yield {"clip": row["clip"], "stage": "collect", "attempts": 1, **about}


def _write_edits(target: Target, edited: Edited) -> Tally:
    """tables/edits.parquet and the metadata, which take their places one after the other when both are whole."""
    tally = Tally()
    with ExitStack() as files:
        table = target.writing("tables/edits.parquet")
        lines = None if edited.spread else files.enter_context(target.writing(metadata.SMALL))
        rows = files.enter_context(ParquetRows(files.enter_context(table), edited.fields))
        for part in parts(edited.table(), GROUP):
            rows.add(part)
            tally.add(part)
            if lines is not None:
                metadata.write_lines(lines, part)
    folders = metadata.write_folders(target, edited.in_folders(), edited.fields) if edited.spread else ()
    metadata.remove_other(target, set(folders), edited.spread)
    return tally


def _write_table(target: Target, name: str, rows: Iterable[Row], fields: Mapping[str, pa.DataType]) -> int:
    with target.writing(name) as sink:
        return write_rows(sink, rows, fields)
