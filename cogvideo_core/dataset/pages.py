"""The pages about a collected dataset, written from rows that come one after the other: card and gallery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cogvideo_core.dataset.card import SHOWN_FAILURES, card_of
from cogvideo_core.dataset.gallery import SHARD, gallery_files
from cogvideo_core.dataset.target import Target
from cogvideo_core.dataset.yields import Tally, is_measured, spread_of
from cogvideo_core.storage.objects import storing

Row = dict[str, Any]


def write_card(target: Target, tally: Tally, errors: Iterable[Row], count: int, about: Row, spread: bool) -> None:
    """dataset/README.md, after tables/edits.parquet: the spread of the scores is read from its columns."""
    first = list(islice(errors, SHOWN_FAILURES))
    text = card_of(tally, list(spread_of(_measured(target))), first, count, about, spread)
    target.write("dataset/README.md", text.encode())


def _measured(target: Target) -> Iterator[tuple[str, np.ndarray]]:
    """(name, values float64 [rows that have one]) of each column of figures, one in memory at a time."""
    name = "tables/edits.parquet"
    with storing(name), target.fs.open(f"{target.path}/{name}", "rb") as file:
        table = pq.ParquetFile(file)
        for column in sorted(filter(is_measured, table.schema_arrow.names)):
            values = table.read([column])[column].drop_null()
            yield column, values.to_numpy().astype(float)


def write_gallery(target: Target, rows: Iterable[Row], errors: Iterable[Row], about: Mapping[str, Any]) -> None:
    """The gallery of rows in the tables' order, index.html last, then without files that only a larger one had."""
    written = set()
    for name, data in gallery_files(rows, errors, about):
        target.write(name, data)
        written.add(name)
    for base in target.names("gallery"):
        if SHARD.fullmatch(base) and f"gallery/{base}" not in written:
            target.remove(f"gallery/{base}")
