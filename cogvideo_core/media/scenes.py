"""Where windows lie in a clip that has cuts: each inside one scene, and where it would lie without cuts if it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from cogvideo_core.media.described import Probe
from cogvideo_core.media.video import Which, Window

ROUNDING_S = Fraction(1, 10**6)  # of windows' starts


class Need(NamedTuple):
    """What a window takes: so many frames at so many a second."""

    frames: int
    fps: int

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.frames, self.fps)


class Seen(NamedTuple):
    """The frames that were looked at, from number `first` to before `stop` at `rate` a second: those between begin_s
    and end_s, seconds after the clip's first frame, or, if not `whole`, only the first of them. `cuts` are the numbers
    of frames that begin another scene."""

    first: int
    stop: int
    cuts: list[int]
    whole: bool
    begin_s: float
    end_s: float
    rate: Fraction


class Span(NamedTuple):
    """From where to where windows of a scene may start, in seconds after the clip's first frame. `begin` is where the
    scene begins, `first` a little later, where the nearest frame is surely inside."""

    begin: Fraction
    first: Fraction
    last: Fraction


class Spot(NamedTuple):
    """A window: where it starts, and its number if an unscreened clip has one there; None where cuts have moved it to a
    place of its own."""

    start_s: float
    number: int | None


def spans(seen: Seen, probe: Probe, need: Need) -> list[Span]:
    """The places for windows in each scene that is long enough.

    A window after a cut starts a quarter of a frame late: the nearest frame is then never one before the cut, even if
    the frames of the clip are not quite even. Only one that an unscreened clip would have there starts on time. Its
    last frame, and its sound, end before the next cut.
    """
    found, rate = [], seen.rate
    for first, stop in pairwise([seen.first, *seen.cuts, seen.stop]):
        cut = first != seen.first
        begin = first / rate if cut else Fraction(seen.begin_s)
        start = (first + Fraction(1, 4)) / rate if cut else begin
        if seen.whole and stop == seen.stop:  # as windows of unscreened clips: half a frame may be missing
            last = Fraction(seen.end_s) + 1 / (2 * probe.fps) - need.seconds
        else:
            shown = need.seconds - Fraction(1, need.fps) + Fraction(1, 2) / rate + Fraction(1, 1000)
            last = stop / rate - max(need.seconds - Fraction(1, 2) / rate, shown)
        if last >= start:
            found.append(Span(begin, start, last))
    return found


def spots(free: Sequence[Span], usual: Sequence[Window], need: Need, which: Which) -> list[Spot]:
    """The windows: the first that fits, the one nearest to the middle, or all without overlap; none where no scene is
    long enough. `usual` are those of the unscreened clip."""
    if which == "middle":
        wanted = Fraction(usual[0].start_s)
        starts = [span.first if wanted < span.begin - ROUNDING_S else min(wanted, span.last) for span in free]
        starts = sorted(starts, key=lambda start: (abs(start - wanted), start))[:1]
    else:
        starts = [start for span in free for start in _row(span, usual, need)][: 1 if which == "first" else None]
    numbers = {window.start_s: window.index for window in usual}
    rounded = [round(float(start), 6) for start in starts]
    return [Spot(start, numbers.get(start)) for start in rounded]


def _row(span: Span, usual: Sequence[Window], need: Need) -> Iterator[Fraction]:
    starts = (Fraction(window.start_s) for window in usual)
    start = next((start for start in starts if span.begin - ROUNDING_S <= start <= span.first), span.first)
    while start <= span.last + ROUNDING_S:
        yield start
        start += need.seconds
