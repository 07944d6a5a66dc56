"""An ONNX file of a text detector that takes bright pixels for text, written without a library."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cogvideo_core.media import text


def number(value: int) -> bytes:
    """A varint of protobuf."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def part(field: int, value: int | str | bytes) -> bytes:
    """A field of protobuf: a number, or bytes with their length."""
    if isinstance(value, int):
        return number(field << 3) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(field << 3 | 2) + number(len(data)) + data


def tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(part(1, size) for size in values.shape)
    return dims + part(2, 1) + part(8, name) + part(9, values.astype("<f4").tobytes())


def described(name: str, *shape: int) -> bytes:
    dims = b"".join(part(1, part(1, size)) for size in shape)
    return part(1, name) + part(2, part(1, part(1, 1) + part(2, dims)))


def bright_is_text(path: Path, outputs: int = 1) -> Path:
    """An ONNX file: sigmoid of ten times the sum of a pixel's channels."""
    kernel, size = np.full((outputs, 3, 1, 1), 10.0), (text.HEIGHT, text.WIDTH)
    nodes = part(1, part(1, "in") + part(1, "kernel") + part(2, "sum") + part(4, "Conv"))
    nodes += part(1, part(1, "sum") + part(2, "out") + part(4, "Sigmoid"))
    graph = nodes + part(2, "graph") + part(5, tensor("kernel", kernel))
    graph += part(11, described("in", 1, 3, *size)) + part(12, described("out", 1, outputs, *size))
    path.write_bytes(part(1, 8) + part(7, graph) + part(8, part(1, "") + part(2, 13)))
    return path
