"""Which of a clip's frames a window takes, and how many of them are damaged."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from cogvideo_core.errors import NotAVideo, TruncatedClip
from cogvideo_core.media.described import Probe
from cogvideo_core.media.frames import Frame, decoded
from cogvideo_core.media.picture import input_options
from cogvideo_core.media.tools import Limits, reason

US = 1_000_000  # microseconds: ffmpeg's AVTB
TIE_US = 2  # rounding of two times that are equally far
BEFORE_S = 1.0  # the seek aims this far before a window, to include the frame shown at its beginning


@dataclass(frozen=True)
class Picks:
    """The frames a window takes: `times` of the distinct ones in order (microseconds on the file's clock), `places`:
    each output frame's index in them, and how many of the window's `frames` are damaged. `options`: how
    to open the file to find the same times again."""

    times: list[int]
    places: list[int]
    damaged: int
    frames: int
    options: dict[str, object]


def picks(path: Path, clip: str, probe: Probe, start_s: float, count: int, fps: int, limits: Limits) -> Picks:
    """The frames nearest in time to start_s + k / fps seconds after the first frame, k = 0 .. count - 1.

    Ties go to the later frame. The last frame is shown for its full length. Raises NotAVideo, TruncatedClip,
    ClipTimeout.
    """
    begin = probe.clock_us + round(start_s * US)
    wanted = [begin + round(k * Fraction(US, fps)) for k in range(count)]
    said = list[str]()
    frames, options = _stretch(path, clip, probe, wanted, limits, said)
    if not frames:
        why = reason("\n".join(said), path)
        raise NotAVideo(clip, f"no frame can be decoded from {start_s:g} s on ({why})", "re-encode it as H.264")
    chosen = nearest(sorted(frame.pts for frame in frames), wanted)
    _check_end(clip, frames, probe, wanted, start_s)
    times = sorted(set(chosen))
    damaged, among = damage(frames, times[0], times[-1])
    return Picks(times, [bisect_left(times, time) for time in chosen], damaged, among, options)


def nearest(times: list[int], wanted: Iterable[int]) -> list[int]:
    """The nearest of the sorted `times` for each wanted time; the later of two that are equally near."""
    chosen = []
    for time in wanted:
        at = bisect_left(times, time)
        around = times[max(0, at - 1) : at + 1]
        after = len(around) == 2 and around[1] - time <= time - around[0] + TIE_US
        chosen.append(around[-1] if after or len(around) == 1 else around[0])
    return chosen


def _check_end(clip: str, frames: list[Frame], probe: Probe, wanted: list[int], start_s: float) -> None:
    last = max(frames, key=lambda frame: frame.pts)
    usual = float(US / probe.fps)
    end = last.pts + max(float(last.duration), usual) + usual / 2  # containers round
    if wanted[-1] > end:
        got = sum(time <= end for time in wanted)
        problem = f"only {got} of {len(wanted)} frames could be read from {start_s:g} s on"
        raise TruncatedClip(clip, problem, "copy or download it again, or remove it")


def damage(frames: list[Frame], first: int, last: int) -> tuple[int, int]:
    """(damaged, all) frames shown from `first` to `last`; damaged: the decoder repaired them, or could not decode
    them at all. A gap in time counts once the reader has complained, for it may skip what it can't read.

    Complaints before the first frame may be due to the seek; they count only at the file's start.
    """
    start = next(at for at, frame in enumerate(frames) if frame.pts >= first)
    inside = [frame for frame in frames[start:] if frame.pts <= last]
    usual = float(np.median(np.diff([frame.pts for frame in inside]))) if len(inside) > 1 else math.inf
    hurt = lost = errors = gaps = 0
    for before, frame in zip([None, *inside], inside, strict=False):
        if before is None and start:
            continue
        errors += frame.errors
        gaps += round((frame.pts - before.pts) / usual) - 1 if before and errors else 0
        lost += frame.lost
        hurt += frame.hurt
    lost = max(lost, gaps)  # the same frames, reported by two threads
    return hurt + lost, len(inside) + lost


def _stretch(
    path: Path, clip: str, probe: Probe, wanted: list[int], limits: Limits, said: list[str]
) -> tuple[list[Frame], dict[str, object]]:
    """The decoded frames around the wanted times, up to the first at or after the last of them, and how the file was
    opened: from its start where seeking lands too late."""
    for options in seek_options(probe, wanted[0]):
        found = list[Frame]()
        with closing(decoded(path, clip, probe.stream, limits, input_options(probe) | options, said)) as frames:
            for frame in frames:
                found.append(frame)
                if frame.pts >= wanted[-1]:
                    break
        if found and (found[0].pts <= wanted[0] or "ss" not in options):
            return found, options
    return [], {}


def seek_options(probe: Probe, first: int) -> Iterator[dict[str, object]]:
    """Input options to begin at a time on the file's clock: at a key frame before it, then without seeking."""
    # ffmpeg counts from the container's start
    seek = first / US - probe.origin_s - BEFORE_S
    if seek > 0:
        yield {"ss": f"{seek:.6f}", "noaccurate_seek": None}
    yield {}
