"""Frames of a long clip on disk instead of in memory: an array uint8 [F,H,W,3] that is read as it is looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from cogvideo_core.errors import StorageError
from cogvideo_core.media import video

AT_ONCE = 48  # frames that are decoded, written or compared at a time


def on_disk(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The frames uint8 [n,H,W,3] of all parts as one array, in a temporary file that goes when nobody holds it.

    The file lies in the folder that TMPDIR names. Raises StorageError where the disk is full, ValueError for no part.
    """
    iterator = iter(parts)
    first = next(iterator, None)
    if first is None:
        raise ValueError("a film has frames")
    with tempfile.TemporaryFile() as file:
        count = 0
        try:
            for part in chain([first], iterator):
                file.write(np.ascontiguousarray(part).data)
                count += len(part)
            file.flush()
        except OSError as error:
            told = f"frames of a long clip in a temporary file: {error}; make room in the folder that TMPDIR names"
            raise StorageError(told) from error
        return np.memmap(file, np.uint8, "c", shape=(count, *first.shape[1:]))


def in_parts(frames: np.ndarray, at_once: int = AT_ONCE) -> Iterator[np.ndarray]:
    """The frames, some at a time."""
    return (frames[start : start + at_once] for start in range(0, len(frames), at_once))


def decoded(
    path: Path, clip: str, probe: video.Probe, window: video.Window, view: video.View, limits: video.Limits
) -> np.ndarray:
    """`video.decode` of a window of any length; a long one is a film. Raises what `video.decode` does."""
    if window.frames <= 6 * AT_ONCE:
        return video.decode(path, clip, probe, window, view, limits)
    starts = range(0, window.frames, AT_ONCE)
    windows = (
        video.Window(0, round(window.start_s + at / view.fps, 6), min(AT_ONCE, window.frames - at)) for at in starts
    )
    return on_disk(video.decode(path, clip, probe, each, view, limits) for each in windows)


def stands_still(frames: np.ndarray) -> bool:
    """Whether all of several frames [F,H,W,3] are equal."""
    return len(frames) > 1 and all(bool((part == frames[:1]).all()) for part in in_parts(frames))
