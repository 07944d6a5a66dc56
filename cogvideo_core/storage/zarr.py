"""Trajectory as a Zarr v3 array of one shard: an inner chunk a level with Crc32c, readable by plain zarr.

Zarr itself writes the metadata. The shard is written here, because zarr would hold the whole of it in memory (or
rewrite it for every level): chunks one after the other, then the index of (offset, length) pairs with its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from cogvideo_core.storage.codecs import LEVEL
from cogvideo_core.storage.layout import Layout

FOLDER = "trajectory.zarr"
_MISSING = 2**64 - 1


def write(folder: Path, layout: Layout, planes: Iterable[tuple[int, np.ndarray]]) -> tuple[dict[str, Path], list[int]]:
    """Write (level, bits [f,C,h,w] or their compressed bytes) one after the other.

    Returns ({logical name: file}, byte offset of each stored level); the first file holds them.
    """
    root = folder / FOLDER
    _write_metadata(root, layout)
    shard = root / "c" / "/".join("0" * len(layout.shape))
    shard.parent.mkdir(parents=True, exist_ok=True)
    index = np.full((layout.shape[0], 2), _MISSING, "<u8")
    with shard.open("wb") as sink:
        for level, payload in planes:
            index[level] = sink.tell(), payload.nbytes + 4
            _write_checked(sink, payload.tobytes())
        _write_checked(sink, index.tobytes())
    files = {path.relative_to(folder).as_posix(): path for path in (shard, root / "zarr.json")}
    return files, [int(index[level, 0]) for level in layout.levels]


def _write_metadata(root: Path, layout: Layout) -> None:
    # Levels that were not kept read as NaN: zarr's usual zeros would pass for latents.
    plain = layout.dtype != "bfloat16"
    zarr.create_array(
        store=str(root),
        shape=layout.shape,
        dtype=layout.dtype if plain else "uint16",
        chunks=(1, *layout.shape[1:]),
        shards=layout.shape,
        filters=None,
        compressors=(*_blosc(layout), Crc32cCodec()),
        fill_value=float("nan") if plain else 0x7FC0,
        attributes={"logical_dtype": layout.dtype, "timesteps": layout.timesteps, "levels": layout.levels},
        dimension_names=("level", "f", "C", "h", "w"),
        overwrite=True,  # an earlier attempt may have left its own
    )


def _blosc(layout: Layout) -> tuple[BloscCodec, ...]:
    if layout.codec == "none":
        return ()
    return (BloscCodec(typesize=layout.bits.itemsize, cname="zstd", clevel=LEVEL, shuffle="shuffle", blocksize=0),)


def _write_checked(sink: IO[bytes], data: bytes) -> None:
    sink.write(data)
    sink.write(struct.pack("<I", google_crc32c.value(data)))
