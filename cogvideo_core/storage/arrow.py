"""A trajectory as one Arrow IPC file, a record batch per level, for plain pyarrow: bits or Blosc frames."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa

from cogvideo_core.storage.layout import Layout

NAME = "trajectory.arrow"


def write(folder: Path, layout: Layout, planes: Iterable[tuple[int, np.ndarray]]) -> tuple[dict[str, Path], list[int]]:
    """Write (level, bits [f,C,h,w] or their compressed bytes) one after the other.

    Returns ({logical name: file}, byte offset of each stored level); the first file holds them.
    """
    path, schema = folder / NAME, _schema(layout)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for level, payload in planes:
            writer.write_batch(_batch(schema, level, layout.timesteps[level], payload))
    return {NAME: path}, _offsets(path)


def _schema(layout: Layout) -> pa.Schema:
    bits = pa.list_(pa.from_numpy_dtype(layout.bits), prod(layout.shape[1:]))
    metadata = {
        "logical_dtype": layout.dtype,
        "codec": layout.codec,
        "shape": json.dumps(layout.shape),
        "timesteps": json.dumps(layout.timesteps),
        "levels": json.dumps(layout.levels),
    }
    latents = bits if layout.codec == "none" else pa.large_binary()
    fields = [("level", pa.int32()), ("timestep", pa.int32()), ("latents", latents)]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields], metadata=metadata)


def _batch(schema: pa.Schema, level: int, timestep: int, payload: np.ndarray) -> pa.RecordBatch:
    kind = schema.field("latents").type
    if pa.types.is_fixed_size_list(kind):
        latents = pa.FixedSizeListArray.from_arrays(pa.array(payload.reshape(-1)), type=kind)
    else:
        ends = pa.py_buffer(np.array([0, payload.nbytes], np.int64))
        latents = pa.Array.from_buffers(kind, 1, [None, ends, pa.py_buffer(payload)])
    columns = [pa.array([level], pa.int32()), pa.array([timestep], pa.int32()), latents]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _offsets(path: Path) -> list[int]:
    """Byte offset of each batch's latents in the finished file; the memory map reads no data for it."""
    with pa.memory_map(str(path)) as source:
        start = source.read_buffer(1).address
        source.seek(0)
        reader = pa.ipc.open_file(source)
        columns = (reader.get_batch(i).column("latents") for i in range(reader.num_record_batches))
        return [column.buffers()[-1].address - start for column in columns]  # the last buffer holds the values
