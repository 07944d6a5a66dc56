"""When a clip's frames are shown, which of them a window takes, and how many the decoder could not make whole.

Containers tell times in their own ways, and some wrongly, so the frames are decoded once and asked: ffmpeg's framecrc
prints each frame's time and size between the decoder's own complaints. The second pass (video.decode) takes
the chosen frames by these times.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np

from cogvideo_core.errors import NotAVideo, TruncatedClip
from cogvideo_core.video_picture import input_options
from cogvideo_core.video_probe import Probe
from cogvideo_core.video_tools import Limits, ffmpeg_exe, file_url, reason, run_lines, source_options

US = 1_000_000  # microseconds: ffmpeg's AVTB
TIE_US = 2  # rounding of two times that are equally far
BEFORE_S = 1.0  # sought earlier than a window begins, so that the frame shown at its beginning is there
MOST_FRAMES = 100_000  # of a window's stretch of the file
# a line of framecrc, written at once: other threads may have begun a line of the log before it
SHOWN = re.compile(r"\b0, *-?\d+, *(-?\d+), *(-?\d+), *\d+, 0x[0-9a-f]{8}$")
COMPLAINT = re.compile(r"\[(warning|error|fatal)\] ?")
OURS = ("[framecrc @", "[out#0", "[vost#0")  # our own output, which minds times that are too near each other
MOST_SAID = 20
PACKET_LOST = ("Error submitting packet to decoder",)
FRAME_HURT = ("corrupt decoded frame",)


@dataclass(frozen=True)
class Frame:
    """One decoded frame: when it is shown and for how long (microseconds, 0 for unknown), and the complaints
    before it: packets lost, frames mended, errors of any kind."""

    pts: int
    duration: int
    lost: int
    hurt: int
    errors: int


@dataclass(frozen=True)
class Picks:
    """What a window takes: `times` of the distinct frames in order (microseconds on the file's clock), for each output
    frame its place in them, and how many of the window's frames are damaged. `options`: how
    the file is to be opened to find the same times again."""

    times: list[int]
    places: list[int]
    damaged: int
    frames: int
    options: dict[str, object]


def first_frame(path: Path, clip: str, stream: int, limits: Limits) -> int | None:
    """When the first frame is shown, in microseconds on the file's own clock; None where none can be decoded."""
    with closing(_decoded(path, clip, stream, limits, {}, [])) as frames:
        return next((frame.pts for frame in frames), None)


def picks(path: Path, clip: str, probe: Probe, start_s: float, count: int, fps: int, limits: Limits) -> Picks:
    """The frames nearest in time to start_s + k / fps seconds after the first frame, k = 0 .. count - 1.

    Of two that are equally near, the later. The last frame is shown for its full length. Raises NotAVideo,
    TruncatedClip, ClipTimeout.
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
    """For each wanted time the nearest of the sorted `times`; the later of two that are equally near."""
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
    """(damaged, all) frames shown from `first` to `last`: those that the decoder has mended, and those that it could
    not make at all. A gap in time counts once the reader has complained, for it may pass over what it can't read.

    What is said before the first may be due to the seek, and counts only at the file's start.
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
    lost = max(lost, gaps)  # one and the same, told by two threads
    return hurt + lost, len(inside) + lost


def _stretch(
    path: Path, clip: str, probe: Probe, wanted: list[int], limits: Limits, said: list[str]
) -> tuple[list[Frame], dict[str, object]]:
    """The decoded frames around the wanted times, up to the first that is not before the last of them, and how the file
    was opened; from its start where seeking comes out behind them."""
    for options in seek_options(probe, wanted[0]):
        found = list[Frame]()
        with closing(_decoded(path, clip, probe.stream, limits, input_options(probe) | options, said)) as frames:
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


def _decoded(
    path: Path, clip: str, stream: int, limits: Limits, given: dict[str, object], said: list[str]
) -> Generator[Frame, None, None]:
    """Each frame as framecrc prints it, with the complaints before it. One thread, so that they come in order. `said`
    gets the first complaints."""
    options = source_options(limits.max_pixels) | {"threads": 1} | given
    source = ffmpeg.input(file_url(path), copyts=None, **options)
    video = source[str(stream)].filter("settb", "AVTB")
    how = {
        "format": "framecrc",
        "fps_mode": "passthrough",
        "enc_time_base": "filter",
        "noautoscale": None,
        "flush_packets": 1,
    }
    command = [ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", "-v", "repeat+level+warning"]
    told, count = Complaints(), 0
    for line in run_lines(ffmpeg.compile(ffmpeg.output(video, "pipe:1", **how), cmd=command), clip, limits.timeout_s):
        for text in complaints(line):
            told.add(*text)
            said += [text[1]] if len(said) < MOST_SAID else []
        if shown := SHOWN.search(line):
            if (count := count + 1) > MOST_FRAMES:
                raise NotAVideo(clip, f"it has more than {MOST_FRAMES} frames in a window", "re-encode it at 60 fps")
            yield Frame(int(shown[1]), max(0, int(shown[2])), told.lost, told.hurt, told.errors)
            told = Complaints()


def complaints(line: str) -> list[tuple[str, str]]:
    """(level, text) of all that a line complains of: threads do not wait for each other's line ends."""
    found = list(COMPLAINT.finditer(line))
    ends = [*(match.start() for match in found[1:]), len(line)]
    told = [(match[1], line[match.end() : end]) for match, end in zip(found, ends, strict=False)]
    return [one for one in told if not any(ours in line for ours in OURS)]


class Complaints:
    """What stands in the log between two frames."""

    def __init__(self) -> None:
        self.lost = self.hurt = self.errors = 0

    def add(self, level: str, text: str) -> None:
        self.lost += any(words in text for words in PACKET_LOST)
        self.hurt += any(words in text for words in FRAME_HURT)
        self.errors += level != "warning"
