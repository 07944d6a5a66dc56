"""Parquet: shards whose columns `video` and `source` hold the videos' bytes, as `datasets` stores videos."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.exports.formats import Content, Shard, exported_columns
from cogvideo_core.exports.place import Files, Place
from cogvideo_core.exports.rows import ADDED, NOT_EXPORTED, Item

GROUP_BYTES = 64 << 20  # of videos in a row group, which a reader loads as one
VIDEO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
VIDEOS = ("video", "source")
LOAD = """\
```python
from datasets import Video, load_dataset

edits = load_dataset("EXPORT", split="{split}")  # this folder, or its id on the hub; decoding needs torchcodec
raw = edits.cast_column("video", Video(decode=False)).cast_column("source", Video(decode=False))  # bytes
```
"""


class Parquet:
    """Row groups of some 64 MB of video, without compression where the bytes are compressed already."""

    def __init__(self, shard_bytes: int, table: pa.Schema) -> None:
        self.shard_bytes = shard_bytes
        columns = exported_columns(table, {*NOT_EXPORTED, *VIDEOS}, ADDED)
        # `datasets` takes from here which columns are videos, and the types of the others from the schema
        features = {"info": {"features": {name: {"_type": "Video"} for name in VIDEOS}}}
        fields = [*(pa.field(name, VIDEO) for name in VIDEOS), *columns]
        self.schema = pa.schema(fields, {"huggingface": json.dumps(features)})
        self.texts = columns.names

    def write(self, shard: Shard, contents: Iterator[Content], place: Place) -> Files:
        with place.scratch() as path:
            count = 0
            with pq.ParquetWriter(
                path, self.schema, compression=self._compression(), use_dictionary=self.texts
            ) as sink:
                for group in _groups(contents):
                    sink.write_table(pa.Table.from_pylist([_row(content) for content in group], self.schema))
                    count += len(group)
            name = f"data/{shard.name}.parquet"
            return {name: place.publish(path, name)} if count else {}

    def _compression(self) -> dict[str, str]:
        inside = {f"{name}.{part}": "none" for name in VIDEOS for part in ("bytes", "path")}
        return inside | dict.fromkeys(self.texts, "zstd")

    def tell(self, item: Item) -> None:
        pass

    def finish(self) -> Files:
        return {}

    def paths(self, split: str) -> list[str]:
        return [f"data/{split}-*.parquet"]

    def load(self, splits: list[str]) -> str:
        return LOAD.format(split=splits[0])


def _row(content: Content) -> dict[str, object]:
    item = content.item
    videos = {"video": (content.edit, item.edit_name), "source": (content.source, item.source_name)}
    return item.row | {
        name: {"bytes": data, "path": path.removeprefix("videos/")} for name, (data, path) in videos.items()
    }


def _groups(contents: Iterator[Content]) -> Iterator[list[Content]]:
    group, size = list[Content](), 0
    for content in contents:
        group.append(content)
        size += len(content.edit) + len(content.source)
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
