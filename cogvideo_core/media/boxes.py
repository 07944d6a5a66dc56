"""Is a video file cut off? The outermost boxes of mp4, avi, matroska and gif say where the file should end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_BOXES = 100_000  # a hostile file can be nothing but boxes of eight bytes


def truncation(path: Path) -> str:
    """Why a file is certainly cut off, from its outermost boxes alone; "" when it seems whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] == b"ftyp":
            return _mp4_truncation(file, size)
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            end = 8 + int.from_bytes(head[4:8], "little")
            return _missing(end if end < 2**31 else 0, size)  # live writers leave a placeholder
        if head[:4] == b"\x1a\x45\xdf\xa3":
            file.seek(4)
            return _missing(_matroska_end(file), size)
        if head[:3] == b"GIF" and not _gif_ends(file):
            return "the file ends before its last picture does"
    return ""


def _missing(end: int, size: int) -> str:
    return f"the file ends {end - size} bytes before its video does" if end > size else ""


def _mp4_truncation(file: BinaryIO, size: int) -> str:
    indexed = False
    for count, (kind, end) in enumerate(_boxes(file, size)):
        if count == MAX_BOXES:
            return ""
        indexed |= kind == b"moov"
        if end > size and kind in (b"moov", b"mdat", b"moof"):
            return _missing(end, size)
    return "" if indexed else "the file ends before its index (moov)"


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """(type, end in bytes) of each outermost box of an mp4."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - start
        yield head[4:8], start + length
        start += max(8, length)


def _gif_ends(file: BinaryIO) -> bool:
    """Whether a gif has its trailer, or is so wrong that its decoder has to say it."""
    file.seek(10)
    file.seek(13 + _gif_palette(file))
    while kind := file.read(1):
        if kind == b"\x2c":  # a picture: place and size, palette, width of its codes
            file.seek(8, os.SEEK_CUR)
            file.seek(_gif_palette(file) + 1, os.SEEK_CUR)
        elif kind == b"\x21":
            file.seek(1, os.SEEK_CUR)
        else:
            return True
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], os.SEEK_CUR)
    return False


def _gif_palette(file: BinaryIO) -> int:
    """Bytes of the palette that a byte of flags announces."""
    flags = (file.read(1) or b"\0")[0]
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _matroska_end(file: BinaryIO) -> int:
    """End of the segment after the EBML header; 0 when it is of unknown size."""
    file.seek(min(_varint(file)[0], 1 << 40), os.SEEK_CUR)  # no file system takes the 2**56 that eight bytes can say
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length, unknown = _varint(file)
    return 0 if unknown else file.tell() + length


def _varint(file: BinaryIO) -> tuple[int, bool]:
    """An EBML size, and whether it means "unknown" (all ones)."""
    first = (file.read(1) or b"\0")[0]
    more = 8 - first.bit_length()
    value = int.from_bytes(bytes([first & (0x7F >> more)]) + file.read(more), "big")
    return value, value == (1 << 7 * (more + 1)) - 1
