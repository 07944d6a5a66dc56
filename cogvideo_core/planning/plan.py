"""The plan: which clips, which windows of them, which edits, written down before any work starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cogvideo_core.errors import BadSpec, ClipError
from cogvideo_core.inputs import clip_files, sources
from cogvideo_core.media import video
from cogvideo_core.models.configuration import Configured
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.stages.failures import attempt, is_failure
from cogvideo_core.stages.units import part_of, shape_of

Record = dict[str, Any]


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


def planned_clips(
    dataset: DatasetSpec, model: Configured, need_targets: bool = True, probe: bool = False
) -> Iterator[Record]:
    """Clip records and failures. With window "all" each clip is opened and gives one record per window; with `probe`
    it is opened too, and the findings are in its record."""
    for found in islice(sources.read_clips(dataset, need_targets), dataset.limit or None):
        clip = attempt(partial(check_first_frame, dataset, model), dict(found), "discover")
        if dataset.window == "all" or probe:
            clip = attempt(partial(_opened, dataset, model), clip, "discover")
        if is_failure(clip):
            yield clip
            continue
        for window in range(clip.pop("windows", 1)):
            yield dict(sources.at_window(clip, window))  # type: ignore[arg-type]


def check_first_frame(dataset: DatasetSpec, model: Configured, clip: Record) -> Record:
    """Returns the clip. Raises ClipError where its edited first frame could not be used."""
    if clip["image_uri"] and not model.image_to_video:
        problem, remedy = "it needs an image-to-video model", "leave it out or use CogVideoX-5B-I2V or 1.5-5B-I2V"
    elif clip["image_uri"] and dataset.window == "all":
        problem, remedy = "one image can't be the first frame of every window", "set dataset.window to first or middle"
    else:
        return clip
    raise ClipError(clip["clip"], f"first_frame_uri {clip['first_frame_uri']!r}: {problem}", remedy)


def _opened(dataset: DatasetSpec, model: Configured, clip: Record) -> Record:
    """The clip with its file's properties and sha256; `windows` is the number of windows it is cut into."""
    shape, limits = shape_of(dataset, model), video.Limits.of(dataset)
    with tempfile.TemporaryDirectory() as folder:
        path, content = clip_files.fetched(clip, Path(folder), limits)
        found = video.probe(path, clip["clip"], limits)
        windows = len(video.windows(found, clip["clip"], shape.frames, shape.fps, dataset.window, part_of(clip)))
        about: Record = {"content": content, "seconds": found.seconds, "windows": windows}
    sizes = {"source_frames": found.frames, "source_height": found.height, "source_width": found.width}
    return clip | about | sizes | {"source_fps": float(found.fps)}
