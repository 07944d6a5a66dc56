"""The look at a source clip before any model work: where its windows lie between cuts, and what is wrong with them.

What is measured is stored once a clip and setting, as a unit without files; limits are compared with it at each run.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, repeat
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from cogvideo_core.errors import ScenesTooShort, ScreenedOut
from cogvideo_core.inputs.masks import AUTO, NONE, words
from cogvideo_core.media import scenes, shots, text, video
from cogvideo_core.media.figures import HASHED, figures, hashes
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.models.file_hashes import digest_of
from cogvideo_core.settings.screen_specs import LOOKED_FOR, ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, fingerprint
from cogvideo_core.stages.units import part_of
from cogvideo_core.stages.whole import Rule, cut_up
from cogvideo_core.storage.ledger import Ledger, Verify

Record = dict[str, Any]
FORMAT = 1  # raised when what is measured changes its meaning
CUTS_TOLD = 100  # times of cuts that are stored
CUTS_SAID = 6  # of them in a sentence
MEASURED = ("start_s", "luma", "black", "frozen", "moving", "text")
SCREEN_FIELDS: dict[str, pa.DataType] = {
    "screen_cuts": pa.int32(),
    **{f"screen_{name}": pa.float64() for name in MEASURED},
    "screen_because": pa.string(),
    "duplicate_of": pa.string(),
}
"""Columns of the tables; empty where nothing was looked for."""


@dataclass(frozen=True)
class Screening:
    """What all clips of a run are screened with. Without a ledger nothing is stored. Raises ModelError for a text
    detector that can't be used."""

    spec: ScreenSpec
    dataset: DatasetSpec
    shape: VideoShape
    ledger: Ledger | None = None
    verify: Verify = "size"
    rule: Rule | None = None  # of clips that are edited as one

    def __post_init__(self) -> None:
        if self.spec.most_text:
            text.detector(self.spec.text_model)

    @property
    def need(self) -> scenes.Need:
        return scenes.Need(self.shape.frames, self.shape.fps)


class Placed(NamedTuple):
    """One window of a clip: its number in keys, None where cuts have moved it; where it starts, None where that was not
    looked for; its columns of the tables."""

    number: int | None
    start_s: float | None
    columns: Record


def known(screening: Screening, clip: Record, content: str) -> Record | None:
    """What was measured of a clip before; {} where nothing is to be measured, None where it still is."""
    if not screening.spec.looks:
        return {}
    if screening.ledger is None:
        return None
    commit = screening.ledger.find("screens", fingerprint(_spec(screening, clip, content)), screening.verify)
    return commit.record if commit else None


def screened(screening: Screening, clip: Record, path: Path, content: str, probe: video.Probe) -> Record:
    """What is measured of a clip: `cuts`, how many were seen, `cuts_s`, when, and its `windows`. Stored where there is
    a ledger. Raises ClipTooShort, NotAVideo, ClipTimeout."""
    if (before := known(screening, clip, content)) is not None:
        return before
    record = _looked_at(screening, clip, path, probe)
    if screening.ledger is None:
        return record
    spec = _spec(screening, clip, content)
    return screening.ledger.commit("screens", fingerprint(spec), {}, spec, record).record


def placed(screening: Screening, clip: Record, record: Record) -> Placed:
    """The clip's window by what `screened` or `known` gave.

    Raises ScenesTooShort, and ScreenedOut where the screen was asked to drop what it finds.
    """
    if not record:
        columns, window = dict.fromkeys(("screen_cuts", *(f"screen_{name}" for name in MEASURED))), Record()
        found = Placed(clip["window"], None, columns)
    else:
        check_scenes(screening, clip, record)
        window = _mean(record["windows"]) if screening.rule else record["windows"][clip["window"]]
        columns = {"screen_cuts": record["cuts"]} | {f"screen_{name}": window.get(name) for name in MEASURED}
        found = Placed(window["number"], window["start_s"], columns)
    why = reasons(screening.spec, clip, window)
    if why and screening.spec.action == "drop":
        remedy = "leave it out, change the limit, or set screen.action to mark"
        raise ScreenedOut(clip["clip"], f"the screen says that {', '.join(why)}", remedy)
    columns |= {"screen_because": "; ".join(why), "duplicate_of": clip.get("duplicate_of") or ""}
    return found


def _mean(windows: list[Record]) -> Record:
    """The figures of a clip that is edited as one: the means over its windows, and where the first one is."""
    names = [name for name in MEASURED if name in windows[0] and name != "start_s"]
    means = {name: float(np.mean([window[name] for window in windows])) for name in names}
    return windows[0] | means | {"cut_inside": any(window["cut_inside"] for window in windows)}


def reasons(spec: ScreenSpec, clip: Record, window: Record) -> list[str]:
    """What the screen has against a window, in words: limits it does not keep, duplicates."""
    found = []
    for name, limit in spec.limits.items():
        side, _, figure = name.partition("_")
        below = side == "least"
        if window and (window[figure] < limit if below else window[figure] > limit):
            found.append(f"{figure} {window[figure]:.3g} is {'below' if below else 'above'} {limit:g}")
    if window.get("cut_inside"):
        found.append("a cut lies in the window that its edited first frame or mask belongs to")
    if clip.get("duplicate_of"):
        found.append(f"it shows {clip['duplicate_of']!r} again")
    return found


def check_scenes(screening: Screening, clip: Record, record: Record) -> None:
    """Raises ScenesTooShort where cuts leave no place for the clip's window."""
    windows, need = record["windows"], screening.need
    if clip["window"] < len(windows):
        return
    times = ", ".join(f"{time:.2f}" for time in record["cuts_s"][:CUTS_SAID])
    times += ", ..." if record["cuts"] > CUTS_SAID else ""
    wanted = f"{float(need.seconds):.3f} s that {need.frames} frames at {need.fps} fps need"
    left = f"{len(windows)} windows, and no window {clip['window']}," if windows else "no scene"
    problem = f"its cuts (at {times} s) leave {left} of the {wanted}"
    raise ScenesTooShort(clip["clip"], problem, "cut it up, lower dataset.frames, or set screen.cuts to ignore")


def _spec(screening: Screening, clip: Record, content: str) -> Record:
    """What determines what is measured. Limits don't; nor does where the file lies."""
    part = part_of(clip)
    given: Record = ({"fixed": True} if _bound(screening, clip) else {}) | ({"part": list(part)} if any(part) else {})
    given |= {"rule": list(screening.rule)} if screening.rule else {}
    if screening.spec.most_text:
        given |= {"text": digest_of([Path(screening.spec.text_model)])}
    return given | {
        "format": FORMAT,
        "content": content,
        "window": screening.dataset.window,
        "frames": list(screening.need),
        "screen": {name: getattr(screening.spec, name) for name in LOOKED_FOR},
    }


def _bound(screening: Screening, clip: Record) -> bool:
    """Whether a clip brings pictures that belong to its window: this is not moved, then. Windows of a clip that is
    edited as one are where they are in any case."""
    if screening.rule:
        return False
    mask = str(clip.get("mask") or "")
    return bool(clip["image_uri"]) or (mask not in ("", AUTO, NONE) and words(mask) is None)


class _Look(NamedTuple):
    seen: scenes.Seen
    luma: list[np.ndarray]
    at: list[int]  # the number of each frame of luma


def _looked_at(screening: Screening, clip: Record, path: Path, probe: video.Probe) -> Record:
    spec, dataset, need, part = screening.spec, screening.dataset, screening.need, part_of(clip)
    usual = [] if screening.rule else video.windows(probe, clip["clip"], *need, dataset.window, part)
    rate, limits = shots.rate_of(probe), video.Limits.of(dataset)
    begin, end = part.within(probe, clip["clip"])
    # the nearest frame: parts of a data set often begin right at a cut
    first, most = int(begin * rate + 0.5), 60 * spec.most_minutes
    stays = spec.cuts == "ignore" or _bound(screening, clip)
    frames = shots.small_frames(path, clip["clip"], probe, limits, min(end - float(first / rate), most), first)
    pairs: Iterable[tuple[np.ndarray, bool]] = ((frame, False) for frame in frames)
    if spec.cuts == "avoid":
        pairs = shots.with_cuts(frames, rate, spec.cut_ratio, spec.cut_change)
    enough = ceil(rate * need.seconds) + 3 if dataset.window == "first" else 0
    with closing(frames):
        seen = scenes.Seen(first, first, [], end - begin <= most, begin, end, rate)
        look = _look(pairs, seen, need, enough, stays)
    told = [round(float(cut / rate), 3) for cut in look.seen.cuts]
    record: Record = {"cuts": len(told), "cuts_s": told[:CUTS_TOLD]}
    needs: Iterable[scenes.Need] = repeat(need)
    if screening.rule:
        cuts = [] if stays else [Fraction(cut) / rate for cut in look.seen.cuts]
        whole = cut_up(probe, clip["clip"], part, cuts, screening.rule)
        found = [scenes.Spot(whole.start_s(window.begin), None) for window in whole.windows]
        found[0] = found[0]._replace(number=0)
        needs = iter([need._replace(frames=whole.layouts[window.scene].length) for window in whole.windows])
        record |= {"whole": whole.text}
    elif stays:
        found = [scenes.Spot(window.start_s, window.index) for window in usual]
    else:
        found = scenes.spots(scenes.spans(look.seen, probe, need), usual, need, dataset.window)
    windows = list[Record]()
    for spot, own in zip(found, needs, strict=False):
        windows.append(_measured(look, spot, own, _bound(screening, clip)))
        if spec.most_text:
            windows[-1]["text"] = _text(spec.text_model, path, clip["clip"], probe, limits, spot.start_s, own)
    return record | {"windows": windows}


def _text(
    model: str, path: Path, clip: str, probe: video.Probe, limits: video.Limits, start_s: float, need: scenes.Need
) -> float:
    """The share of text in a window: the mean of its first, middle and last frame."""
    view = video.View(text.HEIGHT, text.WIDTH, 1, "stretch")
    times = [start_s + place * (need.frames - 1) / need.fps for place in HASHED]
    frames = [video.decode(path, clip, probe, video.Window(0, time, 1), view, limits) for time in times]
    return text.detector(model).share(np.concatenate(frames))


def _look(
    pairs: Iterable[tuple[np.ndarray, bool]], seen: scenes.Seen, need: scenes.Need, enough: int, stays: bool
) -> _Look:
    """Goes through small frames, up to the first scene of `enough` frames, or of all `stays`; 0: to the end."""
    cuts, luma, at, begun = list[int](), list[np.ndarray](), list[int](), seen.first
    every, stop = min(Fraction(1), need.fps / seen.rate), seen.first
    for number, (frame, cut) in zip(count(seen.first), pairs, strict=False):
        if cut:
            cuts.append(number)
            begun = begun if stays else number
        if number == seen.first or int(number * every) > int((number - 1) * every):
            luma.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
            at.append(number)
        stop = number + 1
        if enough and stop - begun >= enough:
            return _Look(seen._replace(stop=stop, cuts=cuts, whole=False), luma, at)
    return _Look(seen._replace(stop=stop, cuts=cuts), luma, at)


def _measured(look: _Look, spot: scenes.Spot, need: scenes.Need, told: bool) -> Record:
    """A window's figures and hashes; those of the last frame where it lies beyond what was looked at."""
    rate = look.seen.rate
    start, end = spot.start_s * rate, (spot.start_s + need.seconds) * rate
    inside = [frame for number, frame in zip(look.at, look.luma, strict=True) if start <= number + 0.5 < end]
    luma = np.stack(inside or look.luma[-1:])
    cut_inside = told and any(start < cut < end for cut in look.seen.cuts)
    return {**spot._asdict(), **figures(luma), "hashes": hashes(luma), "cut_inside": cut_inside}
