"""Odd pictures: clean aperture and turns here; interlacing, light and colour in modules of their own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from odd_cases import Case
from picture_colours import colour_cases
from picture_fields import FIELD_CASES
from picture_files import (
    CORNERS,
    clap,
    compared,
    corner_colours,
    ff,
    framed,
    odd_case,
    refuse,
    seen,
    turned,
    with_box,
    with_matrix,
)

EIGHT = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


def cases() -> list[Case]:
    return [*_apertures(), *_turns(), *FIELD_CASES, *colour_cases()]


# Clean aperture: the clip is 128x96 with the corners in a part of it and magenta around


def _aperture(
    box: tuple[int, int, int, int],
    aperture: bytes,
    fit: str,
    size: tuple[int, int],
    folder: Path,
    end: str = "mp4",
    matrix: tuple[int, int, int, int] = (1, 0, 0, 1),
) -> str:
    path = with_box(framed(folder, box), aperture)
    if matrix != (1, 0, 0, 1):
        path = with_matrix(path, *matrix)
    if end != "mp4":
        made, path = path, folder / f"clip.{end}"
        ff("-i", made, "-c", "copy", path)
    frame = seen(path, size, fit)[4]
    bars = np.zeros(2, int)
    if fit == "pad":
        bars = np.array([np.argmax(frame.any((1, 2))), np.argmax(frame.any((0, 2)))])
        frame = frame[bars[0] : size[1] - bars[0], bars[1] : size[0] - bars[1]]
    around = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
    if (np.abs(around - np.array([255, 0, 255])).max(1) < 64).any():
        return "what is outside of the aperture is seen"
    if fit == "pad" and abs(bars - _bars(box, size, matrix)).max() > 1:
        return f"bars of {bars} pixels instead of {_bars(box, size, matrix)}"
    return compared(corner_colours(frame), turned(*matrix), 4)


def _bars(box: tuple[int, int, int, int], size: tuple[int, int], matrix: tuple[int, ...]) -> np.ndarray:
    """(rows, columns) of black on each side of a box of square pixels in a frame of (width, height)."""
    width, height = box[2:] if matrix[0] else (box[3], box[2])
    scale = min(size[0] / width, size[1] / height)
    return np.array([(size[1] - height * scale) / 2, (size[0] - width * scale) / 2])


def _squeezed(folder: Path) -> str:
    """The aperture's 64x48 pixels are twice as wide as high: shown as 128x48, its middle square is 48x48 of that."""
    path = with_box(framed(folder, (32, 24, 64, 48), (128, 96), "-vf", "format=yuv444p,setsar=2"), clap(64, 48))
    frame = seen(path, (96, 96), "pad")[4]
    rows = int(np.argmax(frame.any((1, 2))))
    return compared(np.array([rows]), np.array([30]), 1, "bars") if rows else "no bars"


def _nonsense(aperture: bytes, folder: Path) -> str:
    """An aperture that is none: the whole frame is shown."""
    frame = seen(with_box(framed(folder, (0, 0, 128, 96)), aperture), (128, 96))[4]
    return compared(corner_colours(frame), CORNERS, 4)


def _apertures() -> Iterator[Case]:
    middle, corner, odd = (32, 24, 64, 48), (8, 4, 80, 60), (31, 23, 65, 49)
    wide = {"crop": (48, 48), "pad": (64, 64), "stretch": (64, 48)}
    for end in ("mp4", "mkv"):
        for fit, size in wide.items():
            yield odd_case(
                f"aperture.{end}.{fit}", "its clean part", _aperture, middle, clap(64, 48), fit, size, end=end
            )
    tall = (40, 16, 48, 64)  # another shape than the frame's
    for fit, size in {"crop": (48, 48), "pad": (64, 64)}.items():
        yield odd_case(f"aperture.tall.{fit}", "its clean part", _aperture, tall, clap(48, 64), fit, size)
    moved = clap(80, 60, -16, -14)
    yield odd_case("aperture.moved", "its clean part", _aperture, corner, moved, "stretch", (80, 60))
    yield odd_case("aperture.moved.mkv", "its clean part", _aperture, corner, moved, "crop", (60, 60), end="mkv")
    halves = clap((130, 2), (98, 2), (-1, 2), (-1, 2))
    yield odd_case("aperture.odd", "its clean part", _aperture, odd, halves, "stretch", (64, 48))
    yield odd_case("aperture.odd.pad", "its clean part", _odd_pad)
    whole = clap(65, 49, (-1, 2), (-1, 2))
    yield odd_case("aperture.odd.crop", "its clean part", _aperture, odd, whole, "crop", (48, 48))
    quarter = (0, 1, -1, 0)
    for fit, size in {"crop": (48, 48), "pad": (64, 64), "stretch": (48, 64)}.items():
        yield odd_case(
            f"aperture.turned.{fit}", "its clean part", _aperture, middle, clap(64, 48), fit, size, matrix=quarter
        )
    for matrix in EIGHT[1:]:
        size = (80, 60) if matrix[0] else (60, 80)
        yield odd_case(f"aperture.{_signs(matrix)}", "turned", _aperture, corner, moved, "stretch", size, matrix=matrix)
    yield odd_case("aperture.squeezed", "a shape of 128:48", _squeezed)
    for name, box in {
        "larger": clap(256, 192),
        "zero": clap(0, 0),
        "negative": clap(-64, 48),
        "by-zero": clap((64, 0), 48),
        "outside": clap(64, 48, 100, 0),
        "huge": clap(2**31 - 1, 2**31 - 1),
    }.items():
        yield odd_case(f"aperture.nonsense.{name}", "the whole frame", _nonsense, box)


# Turns: matrices by the container's standard


def _turn(matrix: tuple[int, int, int, int], fit: str, size: tuple[int, int], folder: Path) -> str:
    frame = seen(with_matrix(framed(folder, (0, 0, 128, 96)), *matrix), size, fit)[4]
    frame = frame[frame.any((1, 2))][:, frame.any((0, 2))]
    return compared(corner_colours(frame), turned(*matrix), 4)


def _turns() -> Iterator[Case]:
    for matrix in EIGHT:
        size = (64, 48) if matrix[0] else (48, 64)
        yield odd_case(f"turn.{_signs(matrix)}", "as the matrix says", _turn, matrix, "stretch", size)
    yield odd_case("turn.crop", "as the matrix says", _turn, (0, 1, -1, 0), "crop", (48, 48))
    yield odd_case("turn.pad", "as the matrix says", _turn, (0, 1, 1, 0), "pad", (64, 64))
    for fit, size in {"crop": (48, 48), "pad": (64, 64), "stretch": (48, 64)}.items():
        yield odd_case(f"turn.in-stream.{fit}", "as the frames say", _turned_in_stream, fit, size)
    yield odd_case("turn.mid-stream", "each frame by its own shape", _shape_changes)
    yield odd_case("turn.zeros", "a matrix of zeros is none", _turn_none)
    half = np.sqrt(0.5)
    for name, matrix in {"slanted": (half, half, -half, half), "line": (1.0, 1.0, 1.0, 1.0)}.items():
        make = partial(_matrix_clip, matrix)
        yield odd_case(f"turn.{name}", "refused", refuse, make, "turned by 45 degrees", "upright")


def _turned_in_stream(fit: str, size: tuple[int, int], folder: Path) -> str:
    """The file says nothing, but the stream's frames do (H.264, display orientation): 90 degrees anticlockwise."""
    made, path = framed(folder, (0, 0, 128, 96)), folder / "turned.mp4"
    ff("-i", made, "-c", "copy", "-bsf:v", "h264_metadata=display_orientation=insert:rotate=90", path)
    frame = seen(path, size, fit)[4]
    frame = frame[frame.any((1, 2))][:, frame.any((0, 2))]
    if fit == "pad" and frame.shape[:2] != (64, 48):
        return f"padded to {frame.shape[1]}x{frame.shape[0]} instead of 48x64"
    return compared(corner_colours(frame), np.rot90(CORNERS), 4)


def _shape_changes(folder: Path) -> str:
    """White, upright for a second, then lying: in a square the bars are at the sides, then above and below."""
    for name, size in {"a": "96x128", "b": "128x96"}.items():
        white = ("-f", "lavfi", "-i", f"color=white:s={size}:r=8:d=1")
        ff(*white, "-pix_fmt", "yuvj420p", "-c:v", "mjpeg", "-q:v", 2, folder / f"{name}.mkv")
    (folder / "list").write_text("file a.mkv\nfile b.mkv\n")
    ff("-f", "concat", "-i", folder / "list", "-c", "copy", folder / "clip.mkv")
    frames = seen(folder / "clip.mkv", (96, 96), "pad", frames=15)
    bars = [[np.argmax(frame.any((1, 2))), np.argmax(frame.any((0, 2)))] for frame in frames[[2, 12]]]
    return compared(np.array(bars), np.array([[0, 12], [12, 0]]), 0, "bars")


def _odd_pad(folder: Path) -> str:
    """An odd aperture keeps its odd size: 65x49 in 130x130 leaves 16 black lines above and below."""
    path = with_box(framed(folder, (31, 23, 65, 49)), clap(65, 49, (-1, 2), (-1, 2)))
    frame = seen(path, (130, 130), "pad")[4]
    return compared(np.array([np.argmax(frame.any((1, 2)))]), np.array([16]), 1, "bars")


def _signs(matrix: tuple[int, int, int, int]) -> str:
    return "".join("0pm"[n] for n in matrix)


def _turn_none(folder: Path) -> str:
    return compared(corner_colours(seen(_matrix_clip((0, 0, 0, 0), folder), (64, 48))[4]), CORNERS, 4)


def _matrix_clip(matrix: tuple[float, float, float, float], folder: Path) -> Path:
    return with_matrix(framed(folder, (0, 0, 128, 96)), *matrix)
