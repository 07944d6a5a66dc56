"""The plan: which clips, which windows of them, which edits, written down before any work starts."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cogvideo_core.errors import BadSpec, ClipError, ScreenedOut
from cogvideo_core.inputs import clip_files, sources
from cogvideo_core.media import video
from cogvideo_core.models.configuration import Configured
from cogvideo_core.planning.duplicates import Seen
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.stages.failures import attempt, is_failure
from cogvideo_core.stages.screen import Screening, check_scenes, screened
from cogvideo_core.stages.units import part_of, shape_of
from cogvideo_core.stages.whole import Rule, check_overlap, cut_up, parsed, rule_of
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]
NOT_SCREENED = ScreenSpec.none()


def check_shape(dataset: DatasetSpec, model: Configured) -> None:
    """Refuses sizes the model can't take, before anything is read."""
    shape = shape_of(dataset, model)
    config = model.transformer_config
    multiple = model.pixels_a_cell * config.patch_size
    for field, value in (("height", shape.height), ("width", shape.width)):
        if value % multiple:
            raise BadSpec(f"field {field}: {value} is no multiple of {multiple}, which this model needs; use another")
    own = model.shape
    if config.use_learned_positional_embeddings and shape != own:
        raise BadSpec(
            f"field height: this model takes {own.frames} frames of {own.height}x{own.width} only; leave them 0"
        )
    check_overlap(dataset, shape, model)


def planned_clips(
    dataset: DatasetSpec,
    model: Configured,
    need_targets: bool = True,
    probe: bool = False,
    screen: ScreenSpec = NOT_SCREENED,
    ledger: Ledger | None = None,
) -> Iterator[Record]:
    """Clip records and failures. With window "all" each clip is opened and gives one record per window, with "whole"
    it is opened and its record says in which windows it is cut; it is opened to look for duplicates too, and with
    `probe`, and the findings are in its record.

    Clips that are opened are screened, several at a time; what is measured is kept in the ledger.
    """
    shape = shape_of(dataset, model)
    rule = rule_of(dataset, shape, model) if dataset.window == "whole" else None
    screening = Screening(screen, dataset, shape, ledger, rule=rule)
    opens = dataset.window in ("all", "whole") or probe or screen.duplicates != "off"
    found: Iterator[Record] = (
        attempt(partial(check_first_frame, dataset, model), dict(row), "discover")
        for row in islice(sources.read_clips(dataset, need_targets), dataset.limit or None)
    )
    if opens:
        found = several(lambda clip: attempt(partial(_opened, screening), clip, "discover"), found)
    seen = Seen(screen.most_distance)
    for clip in found:
        if opens and screen.duplicates != "off":
            clip = attempt(partial(_compared, screen, seen), clip, "screen")
        if is_failure(clip):
            yield clip
            continue
        for window in range(clip.pop("windows", 1)):
            yield dict(sources.at_window(clip, window))  # type: ignore[arg-type]


def several(step: Callable[[Record], Record], clips: Iterable[Record]) -> Iterator[Record]:
    """step(clip) in the clips' order, as many at a time as there are processors, and no more than twice as many ahead:
    each waits for ffmpeg most of the time."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[Record]]()
    try:
        for clip in clips:
            waiting.append(pool.submit(step, clip))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_first_frame(dataset: DatasetSpec, model: Configured, clip: Record) -> Record:
    """Returns the clip. Raises ClipError where its edited first frame could not be used."""
    if clip["image_uri"] and not model.image_to_video:
        problem, remedy = "it needs an image-to-video model", "leave it out or use CogVideoX-5B-I2V or 1.5-5B-I2V"
    elif clip["image_uri"] and dataset.window == "all":
        problem, remedy = "one image can't be the first frame of every window", "set dataset.window to first or middle"
    else:
        return clip
    raise ClipError(clip["clip"], f"first_frame_uri {clip['first_frame_uri']!r}: {problem}", remedy)


def _opened(screening: Screening, clip: Record) -> Record:
    """The clip with its file's properties and sha256, and what the screen measured of it; `windows` is the number of
    windows it is cut into."""
    dataset, need, limits = screening.dataset, screening.need, video.Limits.of(screening.dataset)
    with tempfile.TemporaryDirectory() as folder:
        path, content = clip_files.fetched(clip, Path(folder), limits)
        found = video.probe(path, clip["clip"], limits)
        measured: Record = {}
        if screening.rule is None:
            windows = len(video.windows(found, clip["clip"], *need, dataset.window, part_of(clip)))
        if screening.spec.looks:
            measured = screened(screening, clip, path, content, found)
            check_scenes(screening, clip, measured)
            windows = len(measured["windows"])
    if screening.rule:
        clip, windows = clip | {"whole": _whole(screening.rule, clip, found, measured)}, 1
    about: Record = {"content": content, "seconds": found.seconds, "windows": windows, "measured": measured}
    sizes = {"source_frames": found.frames, "source_height": found.height, "source_width": found.width}
    return clip | about | sizes | {"source_fps": float(found.fps)}


def _whole(rule: Rule, clip: Record, found: video.Probe, measured: Record) -> str:
    """The field `whole` of a clip that was opened: "" where it is one window. Raises ClipTooShort, ClipError."""
    whole = parsed(measured["whole"]) if measured else cut_up(found, clip["clip"], part_of(clip), [], rule)
    if clip["image_uri"] and len(whole.windows) > 1:
        problem = f"first_frame_uri {clip['first_frame_uri']!r}: one image can't be the first frame of every window"
        raise ClipError(clip["clip"], problem, "set dataset.window to first or middle")
    return "" if whole.plain else whole.text


def _compared(screen: ScreenSpec, seen: Seen, clip: Record) -> Record:
    """The clip with the name of an earlier one that it shows again. Raises ScreenedOut where it is to be dropped."""
    windows = clip["measured"].get("windows") if screen.duplicates == "near" else None
    again = seen.first_like(clip, clip["content"], windows[0]["hashes"] if windows else ())
    if again and screen.action == "drop":
        remedy = "leave it out, or set screen.duplicates to off"
        raise ScreenedOut(clip["clip"], f"it shows {again!r} again", remedy)
    return clip | {"duplicate_of": again}
