"""Parquet files written a few thousand rows at a time, of columns whose types are known once each value was seen."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.storage.uris import printable

Row = Mapping[str, Any]
T = TypeVar("T")
GROUP = 10_000  # rows of a row group
# where Arrow begins to take whole numbers otherwise: a double holds them exactly, 64 bits hold them
BOUNDS = (-(2**63), -(2**53), 2**53 + 1, 2**63)


class Columns:
    """Columns by name, and the Arrow type that each would have if all its values were seen at once.

    Of each kind of value the first is kept, so memory does not grow with the rows.
    """

    def __init__(self) -> None:
        self.seen: dict[str, dict[Hashable, Any]] = {}

    def add(self, name: str, value: Any) -> None:
        kinds = self.seen.setdefault(name, {})
        if value is not None:
            kinds.setdefault(_kind(value), value)

    def types(self) -> dict[str, pa.DataType]:
        """The types by name, in alphabetical order; text for columns of mixed types."""
        return {name: _type(list(self.seen[name].values())) for name in sorted(self.seen)}


def _kind(value: Any) -> Hashable:
    if isinstance(value, list):
        return "list", frozenset(map(_kind, value))
    if isinstance(value, dict):
        return "dict", frozenset((name, _kind(inner)) for name, inner in value.items())
    return ("int", bisect_right(BOUNDS, value)) if type(value) is int else type(value).__name__


def _type(values: list[Any]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


class ParquetRows:
    """A Parquet file of these columns in the making. A context manager; each `add` makes a row group."""

    def __init__(self, sink: IO[bytes], fields: Mapping[str, pa.DataType]) -> None:
        self.schema, self.groups = pa.schema(list(fields.items())), 0
        self.writer = pq.ParquetWriter(sink, self.schema, compression="zstd")

    def __enter__(self) -> ParquetRows:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None and not self.groups:
            self.add([])
        self.writer.close()

    def add(self, rows: Sequence[Row]) -> None:
        columns = [array([row.get(field.name) for row in rows], field.type) for field in self.schema]
        self.writer.write_table(pa.table(columns, schema=self.schema))
        self.groups += 1


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values as this type; for a column of text, others as what Python prints."""
    if kind == pa.string():
        values = [value if value is None or type(value) is str else str(value) for value in values]
        try:
            return pa.array(values, kind)
        except UnicodeEncodeError:
            values = [value and printable(value) for value in values]
    return pa.array(values, kind)


def write_rows(sink: IO[bytes], rows: Iterable[Row], fields: Mapping[str, pa.DataType]) -> int:
    """Writes a Parquet file; returns how many rows it has."""
    count = 0
    with ParquetRows(sink, fields) as table:
        for part in parts(rows, GROUP):
            table.add(part)
            count += len(part)
    return count


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most so many."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
