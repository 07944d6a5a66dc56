"""WebDataset: tar shards with key.edit.mp4, key.source.mp4 and key.json for each edit."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

from cogvideo_core.exports.formats import Content, Shard
from cogvideo_core.exports.place import Files, Place
from cogvideo_core.exports.rows import Item

LOAD = """\
```python
import webdataset

edits = webdataset.WebDataset("{split}-00000.tar", shardshuffle=False)  # or a list of shards, or a brace pattern
for edit in edits:
    edit["edit.mp4"], edit["source.mp4"]  # bytes of the videos
    edit["json"]  # bytes of the columns below, as JSON
```
"""


class WebDataset:
    """Equal rows and videos give equal bytes: no member carries a date or an owner."""

    def __init__(self, shard_bytes: int) -> None:
        self.shard_bytes = shard_bytes

    def write(self, shard: Shard, contents: Iterator[Content], place: Place) -> Files:
        with place.scratch() as path:
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                count = 0
                for content in contents:
                    count += 1
                    for ending, data in _members(content):
                        info = tarfile.TarInfo(f"{content.item.key}.{ending}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
            name = f"{shard.name}.tar"
            return {name: place.publish(path, name)} if count else {}

    def tell(self, item: Item) -> None:
        pass

    def finish(self) -> Files:
        return {}

    def paths(self, split: str) -> list[str]:
        return [f"{split}-*.tar"]

    def load(self, splits: list[str]) -> str:
        return LOAD.format(split=splits[0])


def _members(content: Content) -> Iterator[tuple[str, bytes]]:
    yield "edit.mp4", content.edit
    yield "source.mp4", content.source
    yield "json", json.dumps(content.item.row, ensure_ascii=False, allow_nan=False).encode()
