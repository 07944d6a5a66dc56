"""When a clip's frames are shown, according to its decoder, and the decoder's complaints between them.

Containers store times in their own ways, some wrongly, so the frames are decoded once to learn them: ffmpeg's framecrc
prints each frame's time between the decoder's own complaints. The second pass (video.decode) takes the chosen
frames by these times.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import ffmpeg

from cogvideo_core.errors import NotAVideo
from cogvideo_core.media.tools import Limits, ffmpeg_exe, file_url, run_lines, source_options

MOST_FRAMES = 100_000  # of a window's stretch of the file
# a line of framecrc, written at once: other threads may have begun a line of the log before it
SHOWN = re.compile(r"\b0, *-?\d+, *(-?\d+), *(-?\d+), *\d+, 0x[0-9a-f]{8}$")
COMPLAINT = re.compile(r"\[(warning|error|fatal)\] ?")
OURS = ("[framecrc @", "[out#0", "[vost#0")  # our own output, which complains of times that are too close
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


def first_frame(path: Path, clip: str, stream: int, limits: Limits) -> int | None:
    """When the first frame is shown, in microseconds on the file's own clock; None where none can be decoded."""
    with closing(decoded(path, clip, stream, limits, {}, [])) as frames:
        return next((frame.pts for frame in frames), None)


def decoded(
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
    """(level, text) of each complaint in a line: threads do not wait for each other's line ends."""
    found = list(COMPLAINT.finditer(line))
    ends = [*(match.start() for match in found[1:]), len(line)]
    told = [(match[1], line[match.end() : end]) for match, end in zip(found, ends, strict=False)]
    return [one for one in told if not any(ours in line for ours in OURS)]


class Complaints:
    """Counts of complaints between two frames."""

    def __init__(self) -> None:
        self.lost = self.hurt = self.errors = 0

    def add(self, level: str, text: str) -> None:
        self.lost += any(words in text for words in PACKET_LOST)
        self.hurt += any(words in text for words in FRAME_HURT)
        self.errors += level != "warning"
