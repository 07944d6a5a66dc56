"""A long clip that is edited as one: its scenes, the windows of each, and records of windows that become clips again.

Frames are counted at the model's rate from the beginning of the clip's part on. What the plan decides stands in the
field `whole` of a clip's record, as JSON; a record without it is one window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from cogvideo_core.diffusion.windows import Layout, layout_of
from cogvideo_core.errors import BadSpec, ClipTooShort
from cogvideo_core.media.video import Part, Probe
from cogvideo_core.settings.fingerprints import canonical
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec
from cogvideo_core.stages.failures import is_failure

if TYPE_CHECKING:  # imports diffusers, which who reads a plan need not wait for
    from cogvideo_core.models.configuration import Configured, VideoShape

Record = dict[str, Any]
LEAST_FRAMES = 9  # of a scene; a shorter one is edited together with the one before it
MOST_SHARES = 8  # task runs that invert a batch


class Rule(NamedTuple):
    """How clips are cut into windows: frames of one, frames a second, latent frames that neighbours share, latent
    frames that the transformer takes together, frames of the shortest scene."""

    frames: int
    fps: int
    overlap: int
    pair: int
    least: int

    @property
    def step(self) -> int:
        """Frames that a clip grows by."""
        return 4 * self.pair

    def layout(self, frames: int) -> Layout:
        return layout_of(frames, self.frames, self.overlap, pair=self.pair)


def rule_of(dataset: DatasetSpec, shape: VideoShape, model: Configured) -> Rule:
    """The rule for these settings. Raises BadSpec for an overlap that a window has no room for."""
    pair, fixed = model.front_padding + 1, getattr(model, "fixed_frames", False)
    latents = (shape.frames - 1) // 4 + 1
    overlap = dataset.overlap or max(1, round(latents / 6))
    rule = Rule(shape.frames, shape.fps, overlap, pair, shape.frames if fixed else min(LEAST_FRAMES, shape.frames))
    rule.layout(10 * shape.frames)
    return rule


class Scene(NamedTuple):
    """What lies between two cuts. begin: its first frame; frames: how many are shown of it; covered: how many its
    windows hold, up to three more (seven for pairs), which lie behind the cut."""

    begin: int
    frames: int
    covered: int


class Window(NamedTuple):
    """One window of a clip: its scene, its number in it, its first frame, and the first that is shown where its latents
    are decoded by themselves."""

    scene: int
    number: int
    begin: int
    shown: int


class Whole(BaseModel):
    """A clip in scenes. begin_s: seconds from the video's first frame to frame 0. trimmed: frames at the clip's end
    that no window reaches, for latent frames hold four each."""

    model_config = ConfigDict(frozen=True)

    rule: Rule
    begin_s: float
    scenes: tuple[Scene, ...]
    trimmed: int

    @property
    def text(self) -> str:
        return canonical(self.model_dump(mode="json"))

    @property
    def frames(self) -> int:
        """Of the clip as it is shown."""
        return sum(scene.frames for scene in self.scenes)

    @cached_property
    def layouts(self) -> list[Layout]:
        return [self.rule.layout(scene.covered) for scene in self.scenes]

    @cached_property
    def windows(self) -> list[Window]:
        """Of all scenes, in order."""
        return [
            Window(scene, number, self.scenes[scene].begin + start, self.scenes[scene].begin + layout.temporal * place)
            for scene, layout in enumerate(self.layouts)
            for number, (start, place) in enumerate(zip(layout.starts, layout.places, strict=True))
        ]

    @property
    def length(self) -> int:
        """Frames of the longest window."""
        return max(layout.length for layout in self.layouts)

    @property
    def plain(self) -> bool:
        """Whether the clip is one window as any clip's first is."""
        return len(self.windows) == 1 and self.length == self.rule.frames

    def start_s(self, frame: int) -> float:
        """When a frame is shown, in seconds after the video's first frame."""
        return round(self.begin_s + frame / self.rule.fps, 6)


@lru_cache(maxsize=256)
def parsed(text: str) -> Whole:
    return Whole.model_validate_json(text)


def whole_of(record: Record) -> Whole | None:
    """The scenes of a clip or of one of its windows; None for a clip that is one window."""
    text = record.get("whole")
    return parsed(text) if text else None


def cut_up(probe: Probe, clip: str, part: Part, cuts: Iterable[Fraction], rule: Rule) -> Whole:
    """The scenes of a part of a clip that has cuts at these times, in seconds after the video's first frame.

    A scene that is shorter than the rule's least is edited together with the one before it, the first with the second.
    Raises ClipTooShort.
    """
    begin, end = part.within(probe, clip)
    have = Fraction(end) - Fraction(begin) + 1 / (2 * probe.fps)  # half a source frame may be missing: containers round
    frames = int(have * rule.fps)
    if frames < rule.least:
        problem = f"{end - begin:.3f} s are fewer than the {rule.least / rule.fps:.3f} s of {rule.least} frames"
        raise ClipTooShort(clip, f"{problem} at {rule.fps} fps", "use a longer clip, or leave it out")
    starts = _merged([_first_frame(cut - Fraction(begin), probe.fps, rule) for cut in cuts], frames, rule.least)
    scenes = [_scene(start, stop, stop < frames, rule) for start, stop in pairwise([*starts, frames])]
    return Whole(rule=rule, begin_s=begin, scenes=tuple(scenes), trimmed=frames - sum(s.frames for s in scenes))


def _first_frame(cut: Fraction, source_fps: Fraction, rule: Rule) -> int:
    """The first frame that shows the source's frame at `cut` seconds, or a later one: each shows the nearest."""
    return ceil(rule.fps * (cut - 1 / (2 * source_fps)))


def _merged(cuts: list[int], frames: int, least: int) -> list[int]:
    """The first frames of scenes of at least so many frames."""
    starts = [0]
    for cut in sorted({*cuts}):
        if cut - starts[-1] >= least and frames - cut >= least:
            starts.append(cut)
    return starts


def _scene(start: int, stop: int, more: bool, rule: Rule) -> Scene:
    """A scene's windows hold a whole number of latent frames: some frames more where there are `more`, else fewer."""
    frames = stop - start
    short = -(frames - 1) % rule.step
    if more:
        return Scene(start, frames, frames + short)
    covered = frames if not short else frames + short - rule.step
    return Scene(start, covered, covered)


def windows_of(record: Record) -> list[Record]:
    """A record for each window of a clip, for what is done to windows by themselves; a clip of one window is its own.

    Each has its own `window`, and its keys where the clip's has them.
    """
    whole = None if is_failure(record) else whole_of(record)
    if whole is None:
        return [record]
    count = len(whole.windows)
    keys = record.get("window_keys") or [{}] * count
    each = [record | own | {"window": number, "of": count, "timings": []} for number, own in enumerate(keys)]
    each[0]["timings"] = [*record.get("timings", [])]
    return each


def first_shown(record: Record) -> int:
    """The clip's frame that a record's latents, decoded by themselves, begin with: 0 but for later windows."""
    whole = whole_of(record) if "of" in record else None
    return whole.windows[record["window"]].shown if whole else 0


def share_of(records: Sequence[Record], share: int, shares: int) -> list[Record]:
    """One of several shares of these clips' windows, neighbours together; one share after the other is all in order."""
    each = [window for record in records for window in windows_of(record)]
    return each[share * len(each) // shares : (share + 1) * len(each) // shares]


def window_count(record: Record) -> int:
    """The windows of a long clip; 0 for a clip that is one window, and for a failure."""
    whole = None if is_failure(record) else whole_of(record)
    return len(whole.windows) if whole else 0


def shares(windows: int, engine: EngineSpec) -> int:
    """In how many shares a batch is inverted whose long clips have so many windows: one where it has none."""
    return max(1, min(MOST_SHARES, windows // engine.clips_per_batch))


ROW_FIELDS = ("windows", "scenes", "trimmed_frames")  # of the tables


def in_row(record: Record) -> Record:
    """What the tables say of how a clip was cut up."""
    whole = whole_of(record)
    counts = (len(whole.windows), len(whole.scenes), whole.trimmed) if whole else (1, 1, 0)
    return dict(zip(ROW_FIELDS, counts, strict=True))


def joined(records: Iterable[Record]) -> Iterator[Record]:
    """The clips of `windows_of` again, each with its `windows`; one of which a window failed is that failure."""
    group = list[Record]()
    for record in records:
        if "of" not in record:
            yield record
            continue
        group.append(record)
        if len(group) == record["of"]:
            yield _clip_of(group)
            group = []


def _clip_of(windows: list[Record]) -> Record:
    timings = [row for window in windows for row in window.get("timings", [])]
    failed = next((window for window in windows if is_failure(window)), None)
    clip = {name: value for name, value in (failed or windows[0]).items() if name != "of"}
    clip |= {"window": 0, "timings": timings} | _spent(windows)
    if failed is None:
        return clip | {"windows": windows}
    del clip["whole"]
    return clip | {"message": told(failed)}


def _spent(windows: list[Record]) -> Record:
    """What the workers of all windows say of their models: how often they loaded one, and how long it was busy."""
    loads, busy = dict[str, int](), dict[str, list[float]]()
    for window in windows:
        loads |= window.get("loads", {})
        for worker, looks in window.get("busy", {}).items():
            both = [*busy.get(worker, []), *looks]
            busy[worker] = [min(both), max(both)]
    return {"loads": loads, "busy": busy} if loads else {}


def told(failed: Record) -> str:
    """The message of a window's failure, which says which window it is of how many."""
    whole = parsed(failed["whole"])
    start = whole.start_s(whole.windows[failed["window"]].begin)
    where = f"window {failed['window'] + 1} of {failed['of']} (from {start:g} s)"
    name = f"clip {failed['clip']!r}"
    return str(failed["message"]).replace(name, f"{name}, {where}", 1)


def check_overlap(dataset: DatasetSpec, shape: VideoShape, model: Configured) -> None:
    """Raises BadSpec for an overlap that goes with no window, or has nothing to share."""
    if dataset.window == "whole":
        rule_of(dataset, shape, model)
    elif dataset.overlap:
        raise BadSpec("field overlap: only window=whole has windows that overlap; set dataset.window to whole, or 0")
