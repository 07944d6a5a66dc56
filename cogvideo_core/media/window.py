"""The window of a clip that is edited, as the model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cogvideo_core.errors import DamagedClip
from cogvideo_core.media import video
from cogvideo_core.media.timeline import Picks
from cogvideo_core.settings.specs import DatasetSpec


class Taken(NamedTuple):
    """A decoded window: frames uint8 [F,H,W,3], what was found in the file, where the window lies, how many frames are
    damaged."""

    frames: np.ndarray
    probe: video.Probe
    window: video.Window
    damaged: int


class Place(NamedTuple):
    """Which window of which part of a clip; where cuts have moved it, no number but its start."""

    number: int | None
    part: video.Part
    start_s: float | None = None


def taken_window(path: Path, clip: str, dataset: DatasetSpec, place: Place, view: video.View, count: int) -> Taken:
    """Decodes `count` frames of a file, in one of its windows. Raises what `video` raises, and DamagedClip."""
    limits = video.Limits.of(dataset)
    found = video.probe(path, clip, limits)
    if place.number is None:
        window = video.Window(0, place.start_s or 0.0, count)
    else:
        window = video.windows(found, clip, count, view.fps, dataset.window, place.part)[place.number]
    found = video.treated(path, clip, found, window.start_s, count / view.fps, dataset, limits)
    frames, taken = video.decode_counted(path, clip, found, window, view, limits)
    check_damage(clip, taken, dataset.max_damage)
    return Taken(frames, found, window, taken.damaged)


def check_damage(clip: str, taken: Picks, most: float) -> None:
    """Raises DamagedClip for a window of which more than this share is damaged."""
    if taken.damaged > most * taken.frames:
        problem = f"{taken.damaged} of {taken.frames} frames of the window are damaged, more than max_damage {most:g}"
        raise DamagedClip(clip, problem, "copy or download it again, remove it, or raise dataset.max_damage")


def spread(frames: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the frames, evenly spread, the first and the last among them."""
    return frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
