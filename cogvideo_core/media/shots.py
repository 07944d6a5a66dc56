"""A clip in small, frame by frame at an even rate, and where one shot ends and another begins.

Cuts are found by PySceneDetect's adaptive detector: a frame that differs from the one before it by far more than its
neighbours do from theirs. Fades and dissolves change little from frame to frame and are no cuts; neither is a flash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice, repeat
from pathlib import Path

import ffmpeg
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from cogvideo_core.errors import NotAVideo
from cogvideo_core.media.described import Probe
from cogvideo_core.media.picture import input_options
from cogvideo_core.media.timeline import US, seek_options
from cogvideo_core.media.tools import Limits, ffmpeg_exe, file_url, reason, run_parts, source_options

HEIGHT, WIDTH = 54, 96  # area averages, so that noise and grain nearly vanish
MOST_FPS = 60
AROUND = 2  # frames on each side that a jump is compared with
FLASH_S = 0.25  # what comes back within this time was only interrupted


def rate_of(probe: Probe) -> Fraction:
    """Frames a second at which a clip is looked at: its own, between 1 and 60."""
    return max(Fraction(1), min(Fraction(MOST_FPS), probe.fps))


def small_frames(
    path: Path, clip: str, probe: Probe, limits: Limits, seconds: float, first: int = 0
) -> Generator[np.ndarray, None, None]:
    """`seconds` of a clip as uint8 [54,96,3] BGR, from frame `first` on: frame k is the one shown at k / rate_of(probe)
    seconds after the clip's first.

    The whole picture, whatever its shape. Frames are repeated or left out where their times are uneven. Raises
    NotAVideo where there is no frame, ClipTimeout.
    """
    rate, said, any_frame = rate_of(probe), list[str](), False
    begin = probe.clock_us + round(first * US / rate)
    seek = next(seek_options(probe, begin)) if first else {}
    options = source_options(limits.max_pixels) | {"threads": 1, "copyts": None} | input_options(probe) | seek
    # no filter keeps more than a flag: ffmpeg starts them anew where a stream changes its size
    video = ffmpeg.input(file_url(path), **options)[str(probe.stream)].filter("settb", "AVTB")
    if first:
        video = video.filter("select", f"gte(pts,{begin - round(US / rate / 2)})")
    video = video.filter("setpts", f"PTS-{begin}").filter("scale", WIDTH, HEIGHT, flags="area")
    how = {"format": "rawvideo", "pix_fmt": "bgr24", "fps_mode": "cfr", "r": str(rate), "t": f"{seconds:.6f}"}
    command = [ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", "-v", "error"]
    command = ffmpeg.compile(ffmpeg.output(video, "pipe:1", **how), cmd=command)
    parts = run_parts(command, clip, limits.timeout_s, HEIGHT * WIDTH * 3, said)
    for part in islice(parts, int(seconds * rate) + 1):
        any_frame = True
        yield np.frombuffer(part, np.uint8).reshape(HEIGHT, WIDTH, 3)
    if not any_frame:
        raise NotAVideo(clip, f"no frame can be decoded ({reason(''.join(said), path)})", "re-encode it as H.264")


def with_cuts(
    frames: Iterable[np.ndarray], rate: Fraction, ratio: float = 3.0, change: float = 15.0
) -> Iterator[tuple[np.ndarray, bool]]:
    """Each frame (uint8 [H,W,3] BGR), and whether a cut lies right before it; a quarter of a second behind.

    `ratio` and `change` are the detector's: how many times more than its neighbours, and how many levels of 255 at
    least, a frame must differ from the one before it.
    """
    flash = max(1, round(FLASH_S * rate))
    around: deque[tuple[np.ndarray, bool] | None] = deque(repeat(None, flash + 1), maxlen=2 * flash + 2)
    for item in chain(_jumps(frames, rate, ratio, change), repeat(None, flash)):
        around.append(item)
        if len(around) < 2 * flash + 2:
            continue
        here = around[flash + 1]
        if here is not None:
            before = [each[0] for each in islice(around, 0, flash + 1) if each]
            after = [each[0] for each in islice(around, flash + 2, None) if each]
            yield here[0], here[1] and not _is_flash(before, here[0], after)


def _is_flash(before: list[np.ndarray], here: np.ndarray, after: list[np.ndarray]) -> bool:
    """Whether the jump from before[-1] to here begins or ends a flash: the picture before it comes back soon, or the
    one after it was there just before."""
    step = _distance(before[-1], here)
    comes_back = any(_distance(before[-1], frame) < step / 2 for frame in after)
    return comes_back or any(_distance(frame, here) < step / 2 for frame in before[:-1])


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, in levels of 255."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def _jumps(
    frames: Iterable[np.ndarray], rate: Fraction, ratio: float, change: float
) -> Iterator[tuple[np.ndarray, bool]]:
    """Each frame, and whether the detector sees a cut before it. The ends are lengthened by still frames, because it
    judges a frame by `AROUND` neighbours on each side."""
    detector = AdaptiveDetector(ratio, min_scene_len=0, window_width=AROUND, min_content_val=change)
    waiting: deque[np.ndarray] = deque()
    fps = float(rate)
    for number, frame in enumerate(_lengthened(frames)):
        found = detector.process_frame(FrameTimecode(number, fps), frame)
        waiting.append(frame)
        if number >= 2 * AROUND:  # the first `AROUND` frames are of the lengthening
            yield waiting[AROUND], bool(found)
            waiting.popleft()


def _lengthened(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    last = None
    for frame in frames:
        if last is None:
            yield from repeat(frame, AROUND)
        yield frame
        last = frame
    if last is not None:
        yield from repeat(last, AROUND)
