"""Interlaced clips woven here of two moments a frame, and progressive ones that must not be touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from odd_cases import Case
from picture_files import LOSSLESS, clap, ff, raw, seen, with_box, with_matrix

COUNT, WIDTH, HEIGHT, RATE = 18, 128, 96, 25
FLAGGED = {"tff": (*LOSSLESS, "-x264-params", "tff=1"), "bff": (*LOSSLESS, "-x264-params", "bff=1")}


def moments(count: int, step: float = 3) -> np.ndarray:
    """Soft upright stripes that drift by `step` pixels a moment: luma uint8 [count,H,W]. Every line is the same, so
    that lines that are made up between others have a right value."""
    x = np.arange(WIDTH)[None, :] - step * np.arange(count)[:, None]
    line = 128 + 60 * np.sin(2 * np.pi * x / 32) + 30 * np.sin(2 * np.pi * x / 21)
    return np.repeat(np.round(line).astype(np.uint8)[:, None], HEIGHT, 1)


def woven(fields: np.ndarray, order: str) -> np.ndarray:
    """Frames of two moments: with tff the even lines are the earlier one's, with bff the odd lines."""
    frames = fields[0::2].copy()
    late = int(order == "tff")
    frames[:, late::2] = fields[1::2, late::2]
    return frames


def grey_clip(frames: np.ndarray, path: Path, *options: object, field: str = "prog") -> Path:
    """A clip of luma [F,H,W] at RATE frames a second."""
    tagged = ("-vf", f"scale=in_range=pc:out_range=tv,format=yuv420p,setfield={field}", "-color_range", "tv")
    ff(*raw(frames, "gray", (frames.shape[2], frames.shape[1]), path.parent, RATE), *tagged, *options, path)
    return path


def watched(path: Path, frames: int = COUNT, size: tuple[int, int] = (WIDTH, HEIGHT), **wishes: object) -> np.ndarray:
    """Green of every frame: uint8 [F,H,W]."""
    return seen(path, size, frames=frames, fps=RATE, **wishes)[..., 1]


def whole(found: np.ndarray, right: np.ndarray, within: float = 6) -> str:
    """ "right" when each frame shows one moment, the right one."""
    off = np.abs(found.astype(float) - right)
    share = float((off > 3 * within).mean())
    worst = int(off.mean((1, 2)).argmax())
    if off[worst].mean() > within / 2 or share > 0.02:
        return f"frame {worst} is off by {off[worst].mean():.1f}; {share:.1%} of all pixels are far off"
    return "right"


def _interlaced(order: str, options: tuple[object, ...], end: str, folder: Path, field: str = "prog") -> str:
    fields = moments(2 * COUNT)
    path = grey_clip(woven(fields, order), folder / f"clip.{end}", *options, field=field)
    return whole(watched(path), fields[0::2])


def _moving_back(order: str, folder: Path) -> str:
    fields = moments(2 * COUNT, -2)
    path = grey_clip(woven(fields, order), folder / "clip.mp4", *FLAGGED[order])
    return whole(watched(path), fields[0::2])


def _turned(folder: Path) -> str:
    """A quarter turn clockwise: the fields' lines become columns, so they must be met before it."""
    fields = moments(2 * COUNT)
    path = with_matrix(grey_clip(woven(fields, "tff"), folder / "clip.mp4", *FLAGGED["tff"]), 0, 1, -1, 0)
    return whole(watched(path, size=(HEIGHT, WIDTH)), np.rot90(fields[0::2], -1, (1, 2)))


def _cut(folder: Path) -> str:
    """A clean aperture that begins at an odd line would swap the fields if it were cut first."""
    fields = moments(2 * COUNT)
    path = with_box(
        grey_clip(woven(fields, "tff"), folder / "clip.mp4", *FLAGGED["tff"]), clap(65, 49, (-1, 2), (-1, 2))
    )
    return whole(watched(path, size=(65, 49)), fields[0::2, 23:72, 31:96])


def _untouched(frames: np.ndarray, options: tuple[object, ...], folder: Path, end: str = "mp4") -> str:
    """Progressive frames come out bit for bit as without deinterlacing, and as they went in."""
    path = grey_clip(frames, folder / f"clip.{end}", *options)
    size = (frames.shape[2], frames.shape[1])
    found, alone = (watched(path, len(frames), size, deinterlace=wish) for wish in ("auto", "off"))
    if (found != alone).any():
        return f"{(found != alone).mean():.1%} of the pixels of a progressive clip are changed"
    return "right" if np.abs(found.astype(int) - frames).max() <= 2 else "not what went in"


def detailed(count: int) -> np.ndarray:
    """Noise that moves by three pixels across and one down a frame: detail in every line, luma uint8 [count,H,W]."""
    noise = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH)).astype(np.float32)
    noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))) / 4
    return np.stack([np.roll(noise, (i, 3 * i), (0, 1)) for i in range(count)]).astype(np.uint8)


def credits_roll(count: int, step: int = 2) -> np.ndarray:
    """Small capital letters of doubled pixels that roll up by whole lines, as in old games: luma [count,H,W]."""
    cells = np.random.default_rng(7).integers(0, 2, (HEIGHT // 2, WIDTH // 2)).astype(np.uint8)
    cells[np.arange(HEIGHT // 2) % 6 > 3] = 0
    page = np.repeat(np.repeat(cells * 200 + 20, 2, 0), 2, 1)
    return np.stack([np.roll(page, -step * i, 0) for i in range(count)])


def _test_card(folder: Path) -> str:
    """ffmpeg's test card, rolling by two lines a frame: idet takes all its doubled lines for fields."""
    path, card = folder / "clip.mkv", "testsrc2=s=320x240:r=25:d=0.04"
    ff("-f", "lavfi", "-i", card, "-vf", "loop=75:1,scroll=v=0.0083334", "-t", 2, "-c:v", "ffv1", path)
    found, alone = (watched(path, 25, (320, 240), deinterlace=wish) for wish in ("auto", "off"))
    return "right" if (found == alone).all() else f"{(found != alone).mean():.1%} of the pixels are changed"


def _off(folder: Path) -> str:
    """Switched off, both moments stay in the frame."""
    frames = woven(moments(2 * COUNT), "tff")
    found = watched(grey_clip(frames, folder / "clip.mp4", *FLAGGED["tff"]), deinterlace="off")
    return "right" if np.abs(found.astype(int) - frames).max() <= 2 else "not the woven frames"


def _cases() -> Iterator[tuple[str, str, Callable[[Path], str]]]:
    fields = ("-flags", "+ildct+ilme", "-q:v", 2)
    for order in ("tff", "bff"):
        for name, options, end in (
            ("h264", FLAGGED[order], "mp4"),
            ("h264.untagged", LOSSLESS, "mp4"),
            ("ffv1", ("-c:v", "ffv1"), "mkv"),
            ("mpeg2", ("-c:v", "mpeg2video", *fields), "mkv"),
            ("mpeg4.avi", ("-c:v", "mpeg4", *fields), "avi"),
            ("mjpeg.untagged", ("-c:v", "mjpeg", "-q:v", 2, "-strict", "unofficial"), "avi"),
            ("vp9.untagged", ("-c:v", "libvpx-vp9", "-lossless", 1, "-cpu-used", 8), "webm"),
            ("h264.wrong-flag", FLAGGED["bff" if order == "tff" else "tff"], "mp4"),
        ):
            field = order if name in ("ffv1", "mpeg2", "mpeg4.avi") else "prog"
            yield f"{name}.{order}", "one moment a frame", partial(_interlaced, order, options, end, field=field)
        yield f"backwards.{order}", "one moment a frame", partial(_moving_back, order)
    yield "turned", "one moment a frame, turned", _turned
    yield "odd-aperture", "one moment a frame, cut", _cut
    yield "progressive.test-card", "untouched", _test_card
    yield "off", "both moments, as asked", _off
    for name, make in {"stripes": moments, "detail": detailed, "credits": credits_roll}.items():
        yield f"progressive.{name}", "untouched", partial(_untouched, make(COUNT), LOSSLESS)
        yield f"film-flagged.{name}", "untouched", partial(_untouched, make(COUNT), FLAGGED["tff"])


FIELD_CASES = [Case("clips", f"fields.{name}", expected, judge) for name, expected, judge in _cases()]
