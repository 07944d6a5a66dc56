"""What `datasets` reads of a collected dataset: one metadata.jsonl, or a metadata.parquet in each folder of videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import IO

import pyarrow as pa

from cogvideo_core.dataset import videos
from cogvideo_core.dataset.columns import write_rows
from cogvideo_core.dataset.rows import FILES, Row, metadata_bytes, metadata_of
from cogvideo_core.dataset.target import Target

SMALL = "dataset/metadata.jsonl"


def write_lines(sink: IO[bytes], rows: Iterable[Row]) -> None:
    """Lines of metadata.jsonl, one for each row that is kept."""
    sink.write(metadata_bytes(row for row in rows if row["kept"]))


def write_folders(target: Target, rows: Iterable[tuple[str, Row]], fields: Mapping[str, pa.DataType]) -> Iterator[str]:
    """Writes metadata.parquet into each folder of a large dataset; the folders. File names are relative to it.

    `rows` come with their folders, folder by folder. `datasets` wants the same columns in each file.
    """
    for folder, found in groupby(rows, key=lambda pair: pair[0]):
        inside = (_inside(row) for _, row in found)
        first = next(inside)
        columns = {name: fields[name] for name in first}
        with target.writing(name_in(folder)) as sink:
            write_rows(sink, chain([first], inside), columns)
        yield folder


def _inside(row: Row) -> Row:
    return metadata_of(row) | {name: row[name].rpartition("/")[2] for name in FILES}


def name_in(folder: str) -> str:
    """The metadata file of a folder of a large dataset."""
    return f"{videos.FOLDER}/{folder}/metadata.parquet"


def remove_other(target: Target, folders: set[str], spread: bool) -> None:
    """Removes metadata of folders that hold none now, and of a dataset of the other size: `datasets` refuses both."""
    if spread:
        target.remove(SMALL)
    for folder in videos.shards(target):
        if folder not in folders:
            target.remove(name_in(folder))
