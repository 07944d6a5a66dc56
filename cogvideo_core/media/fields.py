"""Interlaced video: whether frames hold two moments, in which order, and how they become one.

Flags are wrong too often to be believed alone: progressive films are sold as interlaced, and captures lose their flag.
So a window's frames are examined. Two measures must agree before frames without an interlaced flag are touched: combs
(numpy, below) and the order of fields (ffmpeg's idet).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from cogvideo_core.media.described import Order, Picture, Probe
from cogvideo_core.media.picture import input_options
from cogvideo_core.media.tools import Limits, ffmpeg_exe, file_url, run, source_options
from cogvideo_core.settings.specs import DatasetSpec

PAIRS, MOST_FRAMES, MOST_COLUMNS = 12, 300, 1024
MOST_LINES = 1088  # interlaced formats have no more: larger frames without a flag are not looked at
STEP = 8  # of 255: smaller differences are noise
MOVING = 0.002  # share of pixels that must move before anything is concluded
# Share of combs among moving pixels. In real clips: made interlaced 0.013 and more, progressive 0.0006 at most.
COMBED, SMOOTH = 0.008, 0.002
LEAST_FRAMES, AGREEING = 8, 0.95  # frames that idet finds fields in; share of them in one order


def deinterlaced(video: Any, picture: Picture) -> Any:
    """One whole picture per frame, at the same times; must run before frames are dropped: it uses neighbours."""
    if picture.deinterlaced in ("tff", "bff"):
        return video.filter("bwdif", mode="send_frame", parity=picture.deinterlaced, deint="all")
    return video.filter("bwdif", mode="send_frame", deint="interlaced") if picture.deinterlaced else video


def treated(
    path: Path, clip: str, probe: Probe, start_s: float, seconds: float, dataset: DatasetSpec, limits: Limits
) -> Probe:
    """The probe with deinterlacing chosen by `looked_at`, and tone mapping; the settings may turn off either."""
    picture = replace(probe.picture, tone_mapped=probe.picture.tone_mapped and dataset.tone_map == "auto")
    if dataset.deinterlace == "off":
        return replace(probe, picture=replace(picture, deinterlaced=""))
    order = looked_at(path, clip, probe, start_s, seconds, limits)
    return replace(probe, picture=replace(picture, deinterlaced=order))


def looked_at(path: Path, clip: str, probe: Probe, start_s: float, seconds: float, limits: Limits) -> Order:
    """How to deinterlace a clip, from `seconds` of its frames, start_s after the video's first one.

    Motion without combs, or nearly all frames progressive to idet: not at all, whatever the flags say. Combs, and
    nearly all fields in one order: in that order. Else as the flags say. Raises ClipTimeout.
    """
    flagged, span = probe.picture.deinterlaced, min(MOST_FRAMES, max(2, round(seconds * probe.fps)))
    if not flagged and probe.height + probe.picture.top + probe.picture.bottom > MOST_LINES:
        return ""
    combs, moving = combing(_pairs(path, clip, probe, start_s, span, limits))
    if moving < MOVING:
        return flagged
    if combs < SMOOTH:
        return ""
    return _order(_orders(path, clip, probe, start_s, span, limits), combs, flagged)


def combing(pairs: np.ndarray) -> tuple[float, float]:
    """(share of combs among the moving pixels, share of moving pixels) of luma [N,2,H,W], N pairs of neighbours.

    A moving pixel is a comb when it is brighter, or darker, than both its neighbours above and below by more than
    STEP, and resembles those two lines away: the lines of two moments in turn.
    """
    combs = moving = 0
    for before, frame in pairs.astype(np.int16):
        here, above, below = frame[2:-2], frame[1:-3], frame[3:-1]
        near = np.minimum(abs(here - above), abs(here - below))
        far = np.maximum(abs(here - frame[:-4]), abs(here - frame[4:]))
        moves = abs(here - before[2:-2]) > STEP
        comb = ((here > above) == (here > below)) & (near > STEP) & (2 * far < near)
        moving, combs = moving + int(moves.sum()), combs + int((moves & comb).sum())
    return combs / max(1, moving), moving / max(1, pairs[:, 0].size)


def _pairs(path: Path, clip: str, probe: Probe, start_s: float, span: int, limits: Limits) -> np.ndarray:
    """Luma of up to PAIRS pairs of neighbouring frames, evenly over `span` frames: uint8 [N,2,H,W], as stored."""
    picture = probe.picture
    width, height = probe.width + picture.left + picture.right, probe.height + picture.top + picture.bottom
    width = min(width, MOST_COLUMNS)
    step = max(2, span // PAIRS)
    step += step % 5 == 0  # repeated fields come in fives
    video = _source(path, probe, start_s, limits).filter("select", f"lt(mod(n,{step}),2)")
    video = video.filter("crop", width, height).filter("format", "gray")
    options = {"format": "rawvideo", "fps_mode": "passthrough", "frames:v": 2 * PAIRS}
    ran = run(ffmpeg.compile(ffmpeg.output(video, "pipe:1", **options), cmd=_ffmpeg()), clip, limits.timeout_s)
    count = len(ran.output) // (2 * width * height)
    return np.frombuffer(ran.output, np.uint8, count * 2 * width * height).reshape(count, 2, height, width)


def _orders(path: Path, clip: str, probe: Probe, start_s: float, span: int, limits: Limits) -> Counter[str]:
    """How many of `span` frames idet takes for tff, bff, progressive, undetermined."""
    key = "lavfi.idet.single.current_frame"
    video = _source(path, probe, start_s, limits).filter("idet")
    video = video.filter("metadata", mode="print", key=key, file="pipe:1")
    options = {"format": "null", "fps_mode": "passthrough", "frames:v": span}
    ran = run(ffmpeg.compile(ffmpeg.output(video, "-", **options), cmd=_ffmpeg()), clip, limits.timeout_s)
    lines = ran.output.decode("ascii", "replace").splitlines()
    return Counter(line.removeprefix(f"{key}=") for line in lines if line.startswith(key))


def _order(seen: Counter[str], combs: float, flagged: Order) -> Order:
    """The field order of the frames that have one; telecined film has progressive frames in between."""
    fields, whole = seen["tff"] + seen["bff"], seen["progressive"]
    if whole >= LEAST_FRAMES and whole >= AGREEING * (fields + whole):
        return ""
    for order in ("tff", "bff"):
        if combs >= COMBED and fields >= max(LEAST_FRAMES, whole) and seen[order] >= AGREEING * fields:
            return order
    return flagged


def _source(path: Path, probe: Probe, start_s: float, limits: Limits) -> Any:
    """Stored frames, neither rotated nor cropped."""
    options = input_options(probe) | {"noautorotate": None} | source_options(limits.max_pixels)
    if (begin := probe.start_s - probe.origin_s + start_s) > 0:
        options["ss"] = f"{begin:.6f}"
    return ffmpeg.input(file_url(path), **options)[str(probe.stream)]


def _ffmpeg() -> list[str]:
    return [ffmpeg_exe(), "-nostdin", "-hide_banner", "-v", "error"]
