"""Light and colour: HDR, Dolby Vision, alpha, and every way to store colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from odd_cases import Case
from picture_files import (
    BT2020,
    LOSSLESS,
    P3,
    codes,
    compared,
    ff,
    hlg_nits,
    odd_case,
    patch_colours,
    patches,
    pq_nits,
    raw,
    refuse,
    shown_sdr,
    signals,
    tags,
    with_box,
)

GREYS = np.repeat(np.array([[0.0], [0.1], [0.25], [0.4], [0.5], [0.58], [0.75], [0.9], [1.0]]), 3, 1)
TINTS = np.array([[0.5, 0.45, 0.42], [0.5, 0.55, 0.5], [0.4, 0.4, 0.5], [0.7, 0.66, 0.6], [0.3, 0.33, 0.36]])
STRONG = np.array([[0.7, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.7], [0.6, 0.6, 0.1], [0.9, 0.7, 0.7]])
COLOURS = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0.9, 0.6, 0.2], [0, 0, 0]], float)
NITS = {"smpte2084": pq_nits, "arib-std-b67": hlg_nits}


def colour_cases() -> list[Case]:
    return [*_hdr(), *_dolby(), *_alpha(), *_storage()]


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
        yield odd_case(f"{short}.greys", expected, _light, transfer, GREYS)
        yield odd_case(f"{short}.tints", expected, _light, transfer, TINTS)
        yield odd_case(f"{short}.strong", expected, _light, transfer, STRONG, pixels="yuv444p12le", bits=12)
        yield odd_case(f"{short}.full-range", expected, _light, transfer, TINTS, full=True)
        yield odd_case(f"{short}.420", expected, _light, transfer, TINTS, pixels="yuv420p10le")
        yield odd_case(f"{short}.422.12", expected, _light, transfer, TINTS, pixels="yuv422p12le", bits=12)
        yield odd_case(f"{short}.8-bit", expected, _light, transfer, GREYS, pixels="yuv420p", bits=8)
        yield odd_case(f"{short}.8-bit.full", expected, _light, transfer, TINTS, pixels="yuv444p", bits=8, full=True)
        yield odd_case(f"{short}.rgb", expected, _light, transfer, TINTS, pixels="gbrp10le")
    yield odd_case("pq.p3", "P3's primaries", _light, "smpte2084", TINTS, primaries="smpte432")
    yield odd_case("hlg.off", "by its matrix alone", _left_alone)


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
    yield odd_case("dolby.5", "refused", refuse, partial(_dolby_clip, 5, 0), "Dolby Vision profile 5", "profile 8.1")
    yield odd_case("dolby.10", "refused", refuse, partial(_dolby_clip, 10, 0), "Dolby Vision profile 10")
    yield odd_case("dolby.8.1", "its PQ base layer", _dolby_base, 8, 1, "smpte2084")
    yield odd_case("dolby.8.4", "its HLG base layer", _dolby_base, 8, 4, "arib-std-b67")


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
            yield odd_case(name, right, _stored, "bt709", "bt709", pixels, bits, full)
    for matrix, tag in {
        "bt601": "smpte170m",
        "bt601 ": "bt470bg",
        "bt2020": "bt2020nc",
        "smpte240m": "smpte240m",
        "fcc": "fcc",
    }.items():
        yield odd_case(f"store.{tag}", right, _stored, matrix.strip(), tag, "yuv420p", 8, False)
        yield odd_case(f"store.{tag}.full.10", right, _stored, matrix.strip(), tag, "yuv444p10le", 10, True)
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
        yield odd_case(f"store.{codec}.{pixels}", "the RGB it was made of", _rgb, pixel, codec, end)
    for tag in ("ycgco", "ictcp", "bt2020c"):
        yield odd_case(f"store.{tag}", "refused", refuse, partial(_strange, tag), f"colour matrix is {tag}", "BT.709")
