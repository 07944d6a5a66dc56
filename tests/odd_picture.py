"""Odd pictures: clean aperture, turns, interlacing, HDR, alpha, and every way to store colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from odd_cases import Case
from picture_fields import FIELD_CASES
from picture_files import (
    BT2020,
    CORNERS,
    LOSSLESS,
    P3,
    clap,
    codes,
    compared,
    corner_colours,
    ff,
    framed,
    hlg_nits,
    patch_colours,
    patches,
    pq_nits,
    raw,
    refused,
    seen,
    shown_sdr,
    signals,
    tags,
    turned,
    with_box,
    with_matrix,
)

GREYS = np.repeat(np.array([[0.0], [0.1], [0.25], [0.4], [0.5], [0.58], [0.75], [0.9], [1.0]]), 3, 1)
TINTS = np.array([[0.5, 0.45, 0.42], [0.5, 0.55, 0.5], [0.4, 0.4, 0.5], [0.7, 0.66, 0.6], [0.3, 0.33, 0.36]])
STRONG = np.array([[0.7, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.7], [0.6, 0.6, 0.1], [0.9, 0.7, 0.7]])
COLOURS = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0.9, 0.6, 0.2], [0, 0, 0]], float)
NITS = {"smpte2084": pq_nits, "arib-std-b67": hlg_nits}
EIGHT = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]
Judge = Callable[[Path], str]


def _case(name: str, expected: str, judge: Callable[..., str], *arguments: object, **more: object) -> Case:
    return Case("clips", name, expected, partial(judge, *arguments, **more))


def cases() -> list[Case]:
    return [*_apertures(), *_turns(), *FIELD_CASES, *_hdr(), *_dolby(), *_alpha(), *_storage()]


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
            yield _case(f"aperture.{end}.{fit}", "its clean part", _aperture, middle, clap(64, 48), fit, size, end=end)
    tall = (40, 16, 48, 64)  # another shape than the frame's
    for fit, size in {"crop": (48, 48), "pad": (64, 64)}.items():
        yield _case(f"aperture.tall.{fit}", "its clean part", _aperture, tall, clap(48, 64), fit, size)
    moved = clap(80, 60, -16, -14)
    yield _case("aperture.moved", "its clean part", _aperture, corner, moved, "stretch", (80, 60))
    yield _case("aperture.moved.mkv", "its clean part", _aperture, corner, moved, "crop", (60, 60), end="mkv")
    halves = clap((130, 2), (98, 2), (-1, 2), (-1, 2))
    yield _case("aperture.odd", "its clean part", _aperture, odd, halves, "stretch", (64, 48))
    quarter = (0, 1, -1, 0)
    for fit, size in {"crop": (48, 48), "pad": (64, 64), "stretch": (48, 64)}.items():
        yield _case(
            f"aperture.turned.{fit}", "its clean part", _aperture, middle, clap(64, 48), fit, size, matrix=quarter
        )
    for matrix in EIGHT[1:]:
        size = (80, 60) if matrix[0] else (60, 80)
        yield _case(f"aperture.{_signs(matrix)}", "turned", _aperture, corner, moved, "stretch", size, matrix=matrix)
    yield _case("aperture.squeezed", "a shape of 128:48", _squeezed)
    for name, box in {
        "larger": clap(256, 192),
        "zero": clap(0, 0),
        "negative": clap(-64, 48),
        "by-zero": clap((64, 0), 48),
        "outside": clap(64, 48, 100, 0),
        "huge": clap(2**31 - 1, 2**31 - 1),
    }.items():
        yield _case(f"aperture.nonsense.{name}", "the whole frame", _nonsense, box)


# Turns: matrices by the container's standard


def _turn(matrix: tuple[int, int, int, int], fit: str, size: tuple[int, int], folder: Path) -> str:
    frame = seen(with_matrix(framed(folder, (0, 0, 128, 96)), *matrix), size, fit)[4]
    frame = frame[frame.any((1, 2))][:, frame.any((0, 2))]
    return compared(corner_colours(frame), turned(*matrix), 4)


def _turns() -> Iterator[Case]:
    for matrix in EIGHT:
        size = (64, 48) if matrix[0] else (48, 64)
        yield _case(f"turn.{_signs(matrix)}", "as the matrix says", _turn, matrix, "stretch", size)
    yield _case("turn.crop", "as the matrix says", _turn, (0, 1, -1, 0), "crop", (48, 48))
    yield _case("turn.pad", "as the matrix says", _turn, (0, 1, 1, 0), "pad", (64, 64))
    yield _case("turn.zeros", "a matrix of zeros is none", _turn_none)
    half = np.sqrt(0.5)
    for name, matrix in {"slanted": (half, half, -half, half), "line": (1.0, 1.0, 1.0, 1.0)}.items():
        make = partial(_matrix_clip, matrix)
        yield _case(f"turn.{name}", "refused", _refused, make, "turned by 45 degrees", "upright")


def _signs(matrix: tuple[int, int, int, int]) -> str:
    return "".join("0+-"[n] for n in matrix)


def _turn_none(folder: Path) -> str:
    return compared(corner_colours(seen(_matrix_clip((0, 0, 0, 0), folder), (64, 48))[4]), CORNERS, 4)


def _matrix_clip(matrix: tuple[float, float, float, float], folder: Path) -> Path:
    return with_matrix(framed(folder, (0, 0, 128, 96)), *matrix)


def _refused(make: Callable[[Path], Path], *more: object) -> str:
    *words, folder = more
    assert isinstance(folder, Path)
    return refused(make, folder, *map(str, words))


# HDR: signals by BT.2100, light by its formulas


def _light(
    transfer: str,
    wanted: np.ndarray,
    folder: Path,
    pixels: str = "yuv444p10le",
    bits: int = 10,
    full: bool = False,
    primaries: str = "bt2020",
    within: float = 1.2,
) -> str:
    matrix = "bt2020" if pixels.startswith("yuv") else "gbr"
    stored = codes(wanted, "bt2020", bits, full)
    if matrix == "gbr":
        stored = np.round(wanted[:, [1, 2, 0]] * (2**bits - 1))
    tagged = tags("bt2020nc" if matrix == "bt2020" else "gbr", transfer, primaries, full or matrix == "gbr")
    path = patches(stored, pixels, bits, folder, "-vf", tagged, "-color_range", "pc" if full else "tv")
    given = signals(stored, "bt2020", bits, full) if matrix == "bt2020" else stored[:, [2, 0, 1]] / (2**bits - 1)
    right = shown_sdr(NITS[transfer](given), BT2020 if primaries == "bt2020" else P3)
    return compared(patch_colours(path, len(wanted)), right, within)


def _left_alone(folder: Path) -> str:
    """With tone mapping off, grey codes are taken by range and matrix alone."""
    stored = codes(GREYS, "bt2020", 10, False)
    path = patches(stored, "yuv444p10le", 10, folder, "-vf", tags("bt2020nc", "arib-std-b67", "bt2020"))
    return compared(patch_colours(path, len(GREYS), tone_map="off"), 255 * GREYS, 1)


def _hdr() -> Iterator[Case]:
    for short, transfer in {"pq": "smpte2084", "hlg": "arib-std-b67"}.items():
        expected = "BT.2100's light through the documented curve"
        yield _case(f"{short}.greys", expected, _light, transfer, GREYS)
        yield _case(f"{short}.tints", expected, _light, transfer, TINTS)
        yield _case(f"{short}.strong", expected, _light, transfer, STRONG, pixels="yuv444p12le", bits=12)
        yield _case(f"{short}.full-range", expected, _light, transfer, TINTS, full=True)
        yield _case(f"{short}.420", expected, _light, transfer, TINTS, pixels="yuv420p10le")
        yield _case(f"{short}.422.12", expected, _light, transfer, TINTS, pixels="yuv422p12le", bits=12)
        yield _case(f"{short}.8-bit", expected, _light, transfer, GREYS, pixels="yuv420p", bits=8)
        yield _case(f"{short}.8-bit.full", expected, _light, transfer, TINTS, pixels="yuv444p", bits=8, full=True)
        yield _case(f"{short}.rgb", expected, _light, transfer, TINTS, pixels="gbrp10le")
    yield _case("pq.p3", "P3's primaries", _light, "smpte2084", TINTS, primaries="smpte432")
    yield _case("hlg.off", "by its matrix alone", _left_alone)


# Dolby Vision: a configuration record in an mp4


def _dolby_clip(profile: int, compatible: int, folder: Path, transfer: str = "smpte2084") -> Path:
    frame = codes(np.repeat(TINTS[:4], 16, 0), "bt2020", 10, False).astype("<u2")
    planes = np.tile(frame.T[:, None, :], (16, 1, 32, 1)).transpose(0, 1, 2, 3)
    made = ff_hevc(planes, folder, tags("bt2020nc", transfer, "bt2020"))
    record = bytes([1, 0, profile << 1, 0b00101 | 1 << 3, compatible << 4]) + bytes(19)
    kind = b"dvcC" if profile < 8 else b"dvvC"
    return with_box(made, (8 + len(record)).to_bytes(4, "big") + kind + record)


def ff_hevc(planes: np.ndarray, folder: Path, tagged: str) -> Path:
    """mp4 in lossless HEVC of planes [F,3,H,W] in yuv444p10le."""
    path, size = folder / "clip.mp4", (planes.shape[3], planes.shape[2])
    options = ("-c:v", "libx265", "-x265-params", "lossless=1:log-level=none:pools=1:frame-threads=1", "-tag:v", "hvc1")
    ff(*raw(planes, "yuv444p10le", size, folder), "-vf", tagged, "-preset", "ultrafast", *options, path)
    return path


def _dolby_base(profile: int, compatible: int, transfer: str, folder: Path) -> str:
    """A base layer that others can read is read as what it is."""
    found = patch_colours(_dolby_clip(profile, compatible, folder, transfer), 4)
    given = signals(codes(TINTS[:4], "bt2020", 10, False), "bt2020", 10, False)
    return compared(found, shown_sdr(NITS[transfer](given)), 1.2)


def _dolby() -> Iterator[Case]:
    yield _case("dolby.5", "refused", _refused, partial(_dolby_clip, 5, 0), "Dolby Vision profile 5", "profile 8.1")
    yield _case("dolby.10", "refused", _refused, partial(_dolby_clip, 10, 0), "Dolby Vision profile 10")
    yield _case("dolby.8.1", "its PQ base layer", _dolby_base, 8, 1, "smpte2084")
    yield _case("dolby.8.4", "its HLG base layer", _dolby_base, 8, 4, "arib-std-b67")


# Alpha: colour times alpha


def _transparent(codec: str, pixels: str, end: str, folder: Path, *more: object, within: float = 2) -> str:
    """Orange at four opacities; what can't be seen at all is white there, which must not shine through."""
    alpha = np.array([0, 64, 160, 255])
    rgba = np.array([[255, 255, 255, 0], *([240, 120, 60, a] for a in alpha[1:])], np.uint8)
    frames = np.broadcast_to(np.repeat(rgba, 16, 0), (16, 32, 64, 4))
    convert = f"scale=out_color_matrix=bt601:flags=accurate_rnd+full_chroma_int,format={pixels}"
    path = folder / f"clip.{end}"
    ff(*raw(frames, "rgba", (64, 32), folder), "-vf", convert, "-c:v", codec, *more, path)
    return compared(patch_colours(path, 4), rgba[:, :3] * alpha[:, None] / 255, within)


def _alpha() -> Iterator[Case]:
    lossless = {"libvpx-vp9": ("-lossless", 1), "libvpx": ("-auto-alt-ref", 0, "-crf", 4, "-b:v", "2M")}
    lossless["libx265"] = ("-x265-params", "lossless=1:log-level=none", "-preset", "ultrafast")
    for codec, pixels, end in (
        ("libvpx-vp9", "yuva420p", "webm"),
        ("libvpx", "yuva420p", "webm"),
        ("prores_ks", "yuva444p10le", "mov"),
        ("png", "rgba", "mov"),
        ("qtrle", "argb", "mov"),
        ("ffv1", "yuva420p", "mkv"),
        ("ffv1", "yuva444p10le", "mkv"),
        ("ffv1", "bgra", "mkv"),
        ("utvideo", "gbrap", "avi"),
        ("libx265", "yuva420p", "mp4"),
    ):
        within = 4 if codec in ("libvpx", "prores_ks") else 3
        name = f"alpha.{codec.removeprefix('lib')}.{pixels}"
        make = partial(_transparent, codec, pixels, end, within=within)
        yield Case("clips", name, "laid over black", partial(_with, make, lossless.get(codec, ())))


def _with(make: Callable[..., str], more: tuple[object, ...], folder: Path) -> str:
    return make(folder, *more)


# Every way to store colours


def _stored(
    matrix: str, tag: str, pixels: str, bits: int, full: bool, folder: Path, arguments: tuple[str, ...] = ()
) -> str:
    ranged = ("-vf", tags(tag, full=full), "-color_range", "pc" if full else "tv")
    path = patches(codes(COLOURS, matrix, bits, full), pixels, bits, folder, *ranged, *arguments)
    return compared(patch_colours(path, len(COLOURS)), 255 * COLOURS, 3)


def _rgb(pixels: str, codec: str, end: str, folder: Path) -> str:
    frames = np.broadcast_to(np.repeat(np.round(255 * COLOURS), 16, 0), (16, 16, 16 * len(COLOURS), 3)).astype(np.uint8)
    path = folder / f"clip.{end}"
    given = raw(frames, "rgb24", (16 * len(COLOURS), 16), folder)
    ff(*given, "-vf", f"format={pixels}", "-c:v", codec, *(LOSSLESS[2:] if codec == "libx264rgb" else ()), path)
    return compared(patch_colours(path, len(COLOURS)), 255 * COLOURS, 1)


def _strange(tag: str, folder: Path) -> Path:
    return patches(codes(COLOURS, "bt709", 8, False), "yuv444p", 8, folder, "-vf", tags(tag))


def _storage() -> Iterator[Case]:
    right = "the colours by the matrix and range of its tags"
    for pixels, bits in {"yuv422p": 8, "yuv444p": 8, "yuv422p10le": 10, "yuv420p10le": 10, "yuv444p12le": 12}.items():
        for full in (False, True):
            name = f"store.{pixels}.{'full' if full else 'limited'}"
            yield _case(name, right, _stored, "bt709", "bt709", pixels, bits, full)
    for matrix, tag in {
        "bt601": "smpte170m",
        "bt601 ": "bt470bg",
        "bt2020": "bt2020nc",
        "smpte240m": "smpte240m",
        "fcc": "fcc",
    }.items():
        yield _case(f"store.{tag}", right, _stored, matrix.strip(), tag, "yuv420p", 8, False)
        yield _case(f"store.{tag}.full.10", right, _stored, matrix.strip(), tag, "yuv444p10le", 10, True)
    for pixels, codec, end in (
        ("gbrp", "libx264rgb", "mp4"),
        ("bgr0", "ffv1", "mkv"),
        ("gbrp10le", "ffv1", "mkv"),
        ("rgb24", "png", "mov"),
        ("rgb24", "qtrle", "mov"),
        ("gbrp", "utvideo", "avi"),
        ("bgr24", "rawvideo", "avi"),
    ):
        pixel = "bgr0" if codec == "libx264rgb" else pixels
        yield _case(f"store.{codec}.{pixels}", "the RGB it was made of", _rgb, pixel, codec, end)
    for tag in ("ycgco", "ictcp", "bt2020c"):
        yield _case(f"store.{tag}", "refused", _refused, partial(_strange, tag), f"colour matrix is {tag}", "BT.709")
