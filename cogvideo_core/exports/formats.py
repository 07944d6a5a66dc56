"""What a format has to do, and where a shard's videos come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import pyarrow as pa

from cogvideo_core.exports.place import Files, Place
from cogvideo_core.exports.rows import Item
from cogvideo_core.settings.fingerprints import fingerprint

ROWS_MOST = 10_000  # in a shard, so that the rows of one are few enough for memory


class Shard(NamedTuple):
    """Edits of one split that are written, recorded and done again together."""

    split: str
    number: int
    items: list[Item]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"

    def plan(self, content: str) -> str:
        """Fingerprint of all that decides the shard's bytes; `content` is that of the specification."""
        rows = [[item.key, item.edit_name, item.source_name, item.row] for item in self.items]
        return fingerprint([content, self.name, rows])


class Content(NamedTuple):
    """An edit with the bytes of its two videos, which are what was committed."""

    item: Item
    edit: bytes
    source: bytes


class Format(Protocol):
    """A format: shards are written one after the other; then `finish` writes what is about all of them."""

    shard_bytes: int

    def write(self, shard: Shard, contents: Iterator[Content], place: Place) -> Files:
        """Writes and publishes a shard's files; returns none where no content came."""
        ...

    def tell(self, item: Item) -> None:
        """Hears of each edit of the export in order, also of those in shards that are there already."""
        ...

    def finish(self) -> Files:
        """Publishes lists of the whole export, where the format has them."""
        ...

    def paths(self, split: str) -> list[str]:
        """Patterns of the split's files, for the front matter of the card."""
        ...

    def load(self, splits: list[str]) -> str:
        """How the export is loaded, in markdown."""
        ...


def shards(items: Iterable[Item], most_bytes: int) -> Iterator[Shard]:
    """The items of each split in shards of up to so many bytes of video, at least one item each."""
    waiting: dict[str, list[Item]] = {}
    sizes: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for item in items:
        split = item.split
        if waiting.get(split) and (sizes[split] + item.size > most_bytes or len(waiting[split]) >= ROWS_MOST):
            yield Shard(split, numbers.setdefault(split, 0), waiting.pop(split))
            numbers[split], sizes[split] = numbers[split] + 1, 0
        waiting.setdefault(split, []).append(item)
        sizes[split] = sizes.get(split, 0) + item.size
    for split in sorted(waiting):
        yield Shard(split, numbers.get(split, 0), waiting[split])


def exported_columns(schema: pa.Schema, left_out: set[str], added: Iterable[str]) -> pa.Schema:
    """The columns of exported rows: those of the table but `left_out`, and the added ones, which are text."""
    fields = [field for field in schema if field.name not in {*left_out, *added}]
    return pa.schema([*fields, *(pa.field(name, pa.string()) for name in added)])
