"""Lossless codecs of a level's bits: as they are, or byte-shuffled and zstd-compressed as one Blosc frame a level.

`xor-shuffle-zstd` first takes each level's difference, bit by bit, to the level above it, which a reader has just read
when it goes from noise to clean. The noisiest stored level stands alone, and so does level 0, which edits start from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numcodecs import Blosc

CODECS = ("none", "shuffle-zstd", "xor-shuffle-zstd")
LEVEL = 3  # of zstd: higher ones save 1 % more of a trajectory and take several times as long
_HEADER = 16
Planes = Iterator[tuple[int, np.ndarray]]


def compress(bits: np.ndarray) -> np.ndarray:
    """uint8 [n]: one Blosc frame."""
    codec = Blosc(cname="zstd", clevel=LEVEL, shuffle=Blosc.SHUFFLE)
    return np.frombuffer(codec.encode(np.ascontiguousarray(bits)), np.uint8)


def decompress(frame: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size] in memory of its own. Raises ValueError for anything but a frame of so many bytes."""
    header = frame[:_HEADER].tobytes()
    sizes = int.from_bytes(header[4:8], "little"), int.from_bytes(header[12:16], "little")
    if len(header) != _HEADER or sizes != (size, len(frame)):
        raise ValueError("is no compressed level")  # Blosc itself trusts these numbers
    out = np.empty(size, np.uint8)
    try:
        Blosc().decode(frame, out=out)
    except RuntimeError:
        raise ValueError("can't be decompressed") from None
    return out


def xored(planes: Planes) -> Planes:
    """Each level's bits, as integers, XORed with the next one's; holds two levels."""
    held: tuple[int, np.ndarray] | None = None
    for level, values in planes:
        bits = values.view(f"<u{values.itemsize}")
        if held is not None:
            yield held[0], held[1] ^ bits if held[0] else held[1]
        held = level, bits
    if held is not None:
        yield held


def stands_alone(level: int, levels: tuple[int, ...]) -> bool:
    """Whether the xor codec leaves this stored level as it is."""
    return level in (0, levels[-1])
