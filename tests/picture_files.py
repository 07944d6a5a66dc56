"""Clips with odd pictures, made byte by byte or by ffmpeg's generators, and what standards say that they show."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from odd_cases import Case

from cogvideo_core import errors
from cogvideo_core.media import tools, video
from cogvideo_core.settings.specs import DatasetSpec

LIMITS = video.Limits(max_seconds=600, max_pixels=3840 * 2160, max_bytes=10**9, timeout_s=60)
KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593), "smpte240m": (0.212, 0.087)}
KR_KB |= {"fcc": (0.3, 0.11)}
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]])  # red, green; blue, white
OUTSIDE = np.array([255, 0, 255])
PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
LOSSLESS = ("-c:v", "libx264", "-qp", "0", "-preset", "ultrafast", "-threads", "1")


def ff(*arguments: object) -> None:
    command = [tools.ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def raw(frames: np.ndarray, pixels: str, size: tuple[int, int], folder: Path, rate: object = 8) -> list[object]:
    """Input options that feed ffmpeg these bytes as frames of width x height."""
    (folder / "raw").write_bytes(frames.tobytes())
    shape = f"{size[0]}x{size[1]}"
    return ["-f", "rawvideo", "-pix_fmt", pixels, "-s", shape, "-r", rate, "-i", folder / "raw"]


def seen(
    path: Path, size: tuple[int, int], fit: str = "stretch", frames: int = 9, fps: int = 8, **wishes: object
) -> np.ndarray:
    """The clip as encoding sees it: uint8 [frames,H,W,3]; size is (width, height)."""
    window, dataset = video.Window(0, 0.0, frames), DatasetSpec(**wishes)  # type: ignore[arg-type]
    found = video.probe(path, path.name, LIMITS)
    found = video.treated(path, path.name, found, 0.0, frames / fps, dataset, LIMITS)
    return video.decode(path, path.name, found, window, video.View(size[1], size[0], fps, fit), LIMITS)  # type: ignore[arg-type]


def compared(found: np.ndarray, right: np.ndarray, within: float, what: str = "colours") -> str:
    """ "right", or how far the worst value is off."""
    off = np.abs(found.astype(float) - right).max()
    return "right" if off <= within else f"{what} are off by {off:.1f}: {found.tolist()} instead of {right.tolist()}"


def refused(make: Callable[[Path], Path], folder: Path, *words: str) -> str:
    """ "refused" when probing ends with one sentence that has these words."""
    path = make(folder)
    try:
        video.probe(path, path.name, LIMITS)
    except errors.ClipError as error:
        missing = [word for word in (path.name, *words) if word not in str(error)]
        return f"{missing} not in {error}" if missing or not str(error).isprintable() else "refused"
    return "accepted"


def odd_case(name: str, expected: str, judge: Callable[..., str], *arguments: object, **more: object) -> Case:
    return Case("clips", name, expected, partial(judge, *arguments, **more))


def refuse(make: Callable[[Path], Path], *more: object) -> str:
    """A judge: made like this, the clip is refused with these words."""
    *words, folder = more
    assert isinstance(folder, Path)
    return refused(make, folder, *map(str, words))


# Geometry


def corners(width: int, height: int) -> np.ndarray:
    """Red and green above blue and white: uint8 [H,W,3]."""
    return np.repeat(np.repeat(CORNERS, height // 2, axis=0), width // 2, axis=1).astype(np.uint8)


def corner_colours(frame: np.ndarray) -> np.ndarray:
    """The colours of a picture's four quarters, at their centres: [2,2,3]."""
    height, width = frame.shape[:2]
    return frame[np.ix_([height // 4, 3 * height // 4], [width // 4, 3 * width // 4])]


def framed(folder: Path, box: tuple[int, int, int, int], size: tuple[int, int] = (128, 96), *more: object) -> Path:
    """mp4 of 16 frames: the corners inside the box (x, y, width, height), magenta around."""
    x, y, width, height = box
    frame = np.tile(OUTSIDE.astype(np.uint8), (size[1], size[0], 1))
    frame[y : y + height, x : x + width] = np.array(corners(width + 1, height + 1))[:height, :width]
    path, convert = folder / "clip.mp4", "scale=out_color_matrix=bt601:out_range=tv:flags=accurate_rnd,format=yuv444p"
    frames = np.broadcast_to(frame, (16, *frame.shape))
    ff(*raw(frames, "rgb24", size, folder), "-vf", convert, *LOSSLESS, *more, path)
    return path


def with_box(path: Path, box: bytes, drop: bytes = b"") -> Path:
    """The mp4 with a box at the end of its first sample entry; ffmpeg puts the index last, so no offset changes."""
    data = bytearray(path.read_bytes())
    start, starts = 0, []
    for kind in PARENTS:
        start = data.index(kind, start)
        starts.append(start - 4)
    entry = starts[-1] + 16  # stsd: size, kind, version, count
    if drop:
        at = data.index(drop, entry)
        data[at : at + 4] = b"free"
    end = entry + int.from_bytes(data[entry : entry + 4], "big")
    data[end:end] = box
    for at in (*starts, entry):
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + len(box)).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def clap(width: object, height: object, right: object = 0, down: object = 0) -> bytes:
    """A clean aperture (ISO/IEC 14496-12): its size, and how far its centre is from the frame's; numbers or pairs."""
    pairs = [value if isinstance(value, tuple) else (value, 1) for value in (width, height, right, down)]
    return struct.pack(">I4s8i", 40, b"clap", *(number for pair in pairs for number in pair))


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The mp4 with this display matrix: what is stored at (p, q) is shown at (a p + c q, b p + d q)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 32] = struct.pack(">8i", *(round(n * 65536) for n in (a, b, 0, c, d, 0, 0, 0)))
    path.write_bytes(data)
    return path


def turned(a: int, b: int, c: int, d: int) -> np.ndarray:
    """Where the corners are then shown: [2,2,3]."""
    result = np.zeros_like(CORNERS)
    for row, q in enumerate((-1, 1)):
        for column, p in enumerate((-1, 1)):
            result[(b * p + d * q + 1) // 2, (a * p + c * q + 1) // 2] = CORNERS[row, column]
    return result


# Colour


def codes(rgb: np.ndarray, matrix: str, bits: int, full: bool) -> np.ndarray:
    """Non-linear RGB [N,3] in 0..1 as Y, Cb, Cr codes [N,3] (BT.601, 709, 2020 and 2100: the same formulas)."""
    kr, kb = KR_KB[matrix]
    luma = rgb @ np.array([kr, 1 - kr - kb, kb])
    blue, red = (rgb[:, 2] - luma) / (2 - 2 * kb), (rgb[:, 0] - luma) / (2 - 2 * kr)
    unit, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        values = np.stack([luma * top, blue * top + 2 ** (bits - 1), red * top + 2 ** (bits - 1)], 1)
    else:
        values = np.stack([219 * luma + 16, 224 * blue + 128, 224 * red + 128], 1) * unit
    return np.clip(np.round(values), 0, top)


def signals(stored: np.ndarray, matrix: str, bits: int, full: bool) -> np.ndarray:
    """What such codes [N,3] stand for after rounding: non-linear RGB [N,3]."""
    kr, kb = KR_KB[matrix]
    unit, top = 2 ** (bits - 8), 2**bits - 1
    luma = stored[:, 0] / top if full else (stored[:, 0] / unit - 16) / 219
    blue, red = ((stored[:, i] - 128 * unit) / (top if full else 224 * unit) for i in (1, 2))
    red, blue = luma + (2 - 2 * kr) * red, luma + (2 - 2 * kb) * blue
    return np.stack([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], 1)


def patches(columns: np.ndarray, pixels: str, bits: int, folder: Path, *arguments: object) -> Path:
    """A lossless clip of 16 frames with a square of 16 pixels for each of N triples of codes [N,3]."""
    kind = np.uint8 if bits == 8 else np.dtype("<u2")
    planes = [np.tile(np.repeat(columns[:, i], 16), (16, 1)).astype(kind) for i in range(3)]
    down, right = {"420": (2, 2), "422": (1, 2)}.get(pixels.removeprefix("yuv")[:3], (1, 1))
    frame = np.concatenate([planes[0].ravel(), *(p[::down, ::right].ravel() for p in planes[1:])])
    path, size = folder / "clip.mkv", (16 * len(columns), 16)
    ff(*raw(np.tile(frame, 16), pixels, size, folder), "-c:v", "ffv1", *arguments, path)
    return path


def patch_colours(path: Path, count: int, **wishes: object) -> np.ndarray:
    return seen(path, (16 * count, 16), **wishes)[4, 8, 8::16]


def tags(matrix: str = "unknown", transfer: str = "unknown", primaries: str = "unknown", full: bool = False) -> str:
    """A filter that tags frames."""
    value_range = "full" if full else "limited"
    return f"setparams=colorspace={matrix}:color_trc={transfer}:color_primaries={primaries}:range={value_range}"


def pq_nits(signal: np.ndarray) -> np.ndarray:
    """BT.2100, table 4: the light of PQ."""
    m_1, m_2, c_1, c_2, c_3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = np.clip(signal, 0, 1) ** (1 / m_2)
    return 10000 * (np.maximum(power - c_1, 0) / (c_2 - c_3 * power)) ** (1 / m_1)


def hlg_nits(signal: np.ndarray) -> np.ndarray:
    """BT.2100, table 5: the light of HLG, RGB [N,3], on a display of 1000 nits (system gamma 1.2)."""
    a, b, c = 0.17883277, 1 - 4 * 0.17883277, 0.5 - 0.17883277 * np.log(4 * 0.17883277)
    signal = np.clip(signal, 0, 1)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return 1000 * (scene @ np.array([0.2627, 0.678, 0.0593]))[:, None] ** 0.2 * scene


def to_rgb709(primaries: list[tuple[float, float]]) -> np.ndarray:
    """Linear RGB of these primaries (x, y of red, green and blue; white D65) to BT.709's: [3,3]."""

    def to_xyz(chromaticities: list[tuple[float, float]]) -> np.ndarray:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in chromaticities]).T
        white = np.array([0.3127 / 0.329, 1, (1 - 0.3127 - 0.329) / 0.329])
        return columns * np.linalg.solve(columns, white)

    return np.linalg.inv(to_xyz([(0.64, 0.33), (0.3, 0.6), (0.15, 0.06)])) @ to_xyz(primaries)


BT2020 = [(0.708, 0.292), (0.17, 0.797), (0.131, 0.046)]
P3 = [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)]


def shown_sdr(nits: np.ndarray, primaries: list[tuple[float, float]] | None = None) -> np.ndarray:
    """8-bit SDR of light [N,3]: BT.709, 203 nits = 1; the documented curve on the brightest channel; BT.1886."""
    light = nits / 203 @ to_rgb709(primaries or BT2020).T
    brightest = np.maximum(light.max(1, keepdims=True), 1e-6)
    signal = np.clip(light * curve(brightest) / brightest, 0, 1) ** (1 / 2.4)
    return np.asarray(255 * signal)


def curve(light: np.ndarray, kept: float = 0.5, peak: float = 1000 / 203) -> np.ndarray:
    """Light up to `kept` as it is, then the hyperbola that goes on smoothly and takes `peak` to 1.

    h(x) = kept + (x - kept) / (1 + s (x - kept)) has value kept and slope 1 at kept; s follows from h(peak) = 1.
    """
    over = np.maximum(light - kept, 0)
    s = (peak - 1) / ((1 - kept) * (peak - kept))
    return np.where(light <= kept, light, kept + over / (1 + s * over))
