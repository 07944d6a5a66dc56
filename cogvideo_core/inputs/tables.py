"""Rows of Parquet and Arrow files as fields, and the videos that `datasets` keeps in their cells.

A clip column may be text, `datasets`' struct {"path": ..., "bytes": ...}, or bytes. Bytes are never read with the
rows: a row gets an address, and the cell is read when the clip is fetched. Where a cell has bytes, its path is only a
name.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cogvideo_core.errors import BadManifest, ClipTooLarge, MissingClip
from cogvideo_core.inputs.columns import INSIDE, OWN, Given, Inside, Values, columns_of, is_known, own_of
from cogvideo_core.inputs.inside import Address, address
from cogvideo_core.inputs.lines import opened
from cogvideo_core.inputs.stamps import stamped
from cogvideo_core.storage.uris import is_remote, local_path, path_part, scrubbed

ROWS = 256  # in memory at a time
CHUNK_BYTES = 1 << 20
TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)


class Column(NamedTuple):
    """A clip column: where its text and its bytes are, "" for nowhere. `video.path` is a part of a struct."""

    text: str
    bytes: str = ""


class Layout(NamedTuple):
    """Which columns of a table are read with the rows."""

    clips: list[Column]
    named: dict[str, list[str]]  # field -> its columns; without the clip's
    own: list[str]

    @property
    def bytes(self) -> str:
        """The column that may hold videos, "" for none."""
        return next((column.bytes for column in self.clips if column.bytes), "")

    @property
    def read(self) -> list[str]:
        return [c.text for c in self.clips if c.text] + [n for names in self.named.values() for n in names] + self.own


class Part(NamedTuple):
    """Some rows of a table: their cells by column, and the address of each video in it, "" where there is none."""

    cells: dict[str, list[Any]]
    inside: list[str]


def parquet_rows(uri: str) -> Iterator[Given]:
    """A row for each of a Parquet file's. Raises BadManifest."""
    with opened(uri) as file, _readable(uri, "Parquet"):
        table = pq.ParquetFile(file)
        layout = layout_of(uri, table.schema_arrow)
        yield from _rows(uri, layout, _parquet_parts(uri, table, layout))


def arrow_rows(uri: str) -> Iterator[Given]:
    """A row for each of a local Arrow file's, as `save_to_disk` of `datasets` writes them. Raises BadManifest."""
    with _readable(uri, "Arrow"):
        layout: Layout | None = None
        batches = arrow_batches(uri)
        first = next(batches, None)
        if first is not None:
            layout = layout_of(uri, first.schema)
            yield from _rows(uri, layout, _arrow_parts(uri, first, batches, layout))


def cell_chunks(clip: str, where: Address, max_bytes: int) -> Iterator[bytes]:
    """The video in a cell. Raises ClipTooLarge, MissingClip, BadManifest."""
    read = _arrow_cell if "batch" in where.fields else _parquet_cell
    with _readable(where.holder, "Arrow" if "batch" in where.fields else "Parquet"):
        value = read(clip, where, max_bytes)
    if not value.is_valid:
        raise MissingClip(clip, "its cell is empty now", "run again")
    data = memoryview(value.as_buffer())
    yield from (bytes(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))


def layout_of(uri: str, schema: pa.Schema) -> Layout:
    """Raises BadManifest where there is no clip column."""
    found = columns_of(uri, schema.names)
    clips = [_clip_column(schema.field(at)) for at in found.pop("clip")]
    named = {name: [schema.names[at] for at in places] for name, places in found.items()}
    own = [field.name for field in schema if not is_known(field.name) and not _holds_bytes(field.type)]
    return Layout(clips, named, own)


def arrow_batches(uri: str) -> Iterator[pa.RecordBatch]:
    """The batches of a local file, mapped to memory: nothing is read before it is asked for. Raises BadManifest."""
    if is_remote(uri):
        raise BadManifest(f"manifest {uri!r} is an Arrow file on a store; copy it here, or write Parquet instead")
    with pa.memory_map(local_path(uri)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
        else:
            file.seek(0)
            yield from pa.ipc.open_stream(file)


def _rows(uri: str, layout: Layout, parts: Iterator[Part]) -> Iterator[Given]:
    number, (_, stamp) = 0, stamped(uri, uri) if layout.bytes else (0, "")
    for part in parts:
        for index, where in enumerate(part.inside):
            number += 1
            row = {name: cells[index] for name, cells in part.cells.items()}
            fields: Values = {name: [row[column] for column in columns] for name, columns in layout.named.items()}
            names = [row[column.text] for column in layout.clips if column.text]
            fields |= {"clip": names, OWN: own_of(layout.own, [row[name] for name in layout.own])}
            if where:
                name = next((name for name in names if isinstance(name, str) and name.strip()), "")
                called = name or f"{posixpath.basename(path_part(uri))} row {number}"
                fields |= {"clip": [called], INSIDE: [Inside(where, 0, stamp)]}
            yield f"row {number}", fields


def _parquet_parts(uri: str, table: pq.ParquetFile, layout: Layout) -> Iterator[Part]:
    for group in range(table.num_row_groups):
        filled = _filled(table, group, layout.bytes) if layout.bytes else False

        def made(rows: range, group: int = group, filled: bool | list[bool] = filled) -> list[str]:
            where = {"column": layout.bytes, "group": group}
            return [
                address("cell", uri, **where, row=row) if (filled if isinstance(filled, bool) else filled[row]) else ""
                for row in rows
            ]

        count, at = table.metadata.row_group(group).num_rows, 0
        if not layout.read:
            yield from (Part({}, made(range(at, min(at + ROWS, count)))) for at in range(0, count, ROWS))
            continue
        for batch in table.iter_batches(batch_size=ROWS, row_groups=[group], columns=sorted(set(layout.read))):
            yield Part(_cells(batch, layout.read), made(range(at, at + batch.num_rows)))
            at += batch.num_rows


def _filled(table: pq.ParquetFile, group: int, column: str) -> bool | list[bool]:
    """Whether all rows of a group have bytes, or none, by the file's own count of nulls; else which, by looking."""
    about = table.metadata.row_group(group)
    chunk = next(about.column(at) for at in range(about.num_columns) if about.column(at).path_in_schema == column)
    nulls = chunk.statistics.null_count if chunk.is_stats_set and chunk.statistics.has_null_count else -1
    if nulls in (0, about.num_rows):
        return not nulls
    batches = table.iter_batches(batch_size=1, row_groups=[group], columns=[column])
    return [one for batch in batches for one in _leaf(batch, column).is_valid().to_pylist()]


def _parquet_cell(clip: str, where: Address, max_bytes: int) -> pa.Scalar:
    column, group, row = where.fields["column"], int(where.fields["group"]), int(where.fields["row"])
    with opened(where.holder) as file:
        table = pq.ParquetFile(file, pre_buffer=False)
        about = table.metadata.row_group(group)
        size = next(
            about.column(at).total_uncompressed_size
            for at in range(about.num_columns)
            if about.column(at).path_in_schema == column
        )
        if size > max_bytes:  # all of the group's videos may have to be in memory at once
            problem = f"the row group that holds it has {size / 1e6:,.0f} MB of videos, more than max_megabytes"
            raise ClipTooLarge(clip, problem, "write smaller row groups, or raise dataset.max_megabytes")
        batches = table.iter_batches(batch_size=1, row_groups=[group], columns=[column])
        return next(_leaf(batch, column)[0] for at, batch in enumerate(batches) if at == row)


def _arrow_parts(uri: str, first: pa.RecordBatch, others: Iterator[pa.RecordBatch], layout: Layout) -> Iterator[Part]:
    def parts(number: int, batch: pa.RecordBatch) -> Iterator[Part]:
        _check(batch, layout)
        filled = _leaf(batch, layout.bytes).is_valid().to_pylist() if layout.bytes else [False] * batch.num_rows
        for at in range(0, batch.num_rows, ROWS):
            piece = batch.slice(at, ROWS)
            made = [
                address("cell", uri, column=layout.bytes, batch=number, row=row) if filled[row] else ""
                for row in range(at, at + piece.num_rows)
            ]
            yield Part(_cells(piece, layout.read), made)

    yield from parts(0, first)
    for number, batch in enumerate(others, 1):
        yield from parts(number, batch)


def _arrow_cell(clip: str, where: Address, max_bytes: int) -> pa.Scalar:
    wanted, row = int(where.fields["batch"]), int(where.fields["row"])
    batch = next(batch for number, batch in enumerate(arrow_batches(where.holder)) if number == wanted)
    column = _leaf(batch, where.fields["column"])
    column.validate(full=True)
    return column[row]


def _check(batch: pa.RecordBatch, layout: Layout) -> None:
    """Raises ArrowInvalid for offsets that lead out of the file and text that is no UTF-8."""
    for name in layout.read:
        _leaf(batch, name).validate(full=True)


def _cells(batch: pa.RecordBatch, names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: _leaf(batch, name).to_pylist() for name in names}


def _leaf(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column, or a part of a struct: `video.path`."""
    if name in batch.schema.names:
        return batch.column(name)
    whole, _, part = name.rpartition(".")
    return pc.struct_field(batch.column(whole), part)


def _clip_column(field: pa.Field) -> Column:
    kind = field.type
    if any(test(kind) for test in BINARY):
        return Column("", field.name)
    if not pa.types.is_struct(kind):
        return Column(field.name)
    parts = {kind.field(at).name: kind.field(at).type for at in range(kind.num_fields)}

    def named(part: str, tests: Sequence[Callable[[pa.DataType], bool]]) -> str:
        return f"{field.name}.{part}" if part in parts and any(test(parts[part]) for test in tests) else ""

    return Column(named("path", TEXT), named("bytes", BINARY))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, such as pictures, itself or in its parts; those are not read."""
    own = any(test(kind) for test in BINARY)
    return own or any(_holds_bytes(kind.field(at).type) for at in range(kind.num_fields))


@contextmanager
def _readable(uri: str, kind: str) -> Iterator[None]:
    """Turns what pyarrow raises into BadManifest."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, StopIteration, IndexError) as error:
        raise BadManifest(f"manifest {uri!r} is no readable {kind} file ({scrubbed(error)}); write it anew") from error
