"""The user's own clips as what a study measures on: window 0 of each, as a run would take it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import numpy as np

from cogvideo_core.errors import BadManifest
from cogvideo_core.inputs import clip_files
from cogvideo_core.inputs.sources import Clip, Failure, read_clips
from cogvideo_core.media import video
from cogvideo_core.media.window import Place, taken_window
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.stages.units import part_of, shape_of
from cogvideo_core.study.bench import STEPS, Bench, bench_of


def own_bench(model: VideoModel, dataset: DatasetSpec, limit: int, steps: int = STEPS) -> Bench:
    """The first `limit` clips, one row a call. Raises BadManifest for a clip without a caption, and what inputs and
    media raise."""
    taken = [
        found for found, _ in zip(map(checked, read_clips(dataset, need_targets=False)), range(limit), strict=False)
    ]
    if len(taken) < 2:
        raise BadManifest(f"source {dataset.source!r} holds one clip; give two or more, for intervals over clips")
    frames = np.stack([decoded(model, dataset, clip) for clip in taken])
    return bench_of(model, frames, [clip["source_prompt"] for clip in taken], steps)


def checked(found: Clip | Failure) -> Clip:
    """The clip, if it can be read and has a caption."""
    if "error" in found:
        raise BadManifest(cast(Failure, found)["message"])
    if not found["source_prompt"]:
        raise BadManifest(
            f"clip {found['clip']!r}, field source_prompt: there is none; the study inverts with each clip's caption: "
            "give a manifest with that column, as `cogvideo-edit write-manifest` makes"
        )
    return found


def decoded(model: VideoModel, dataset: DatasetSpec, clip: Clip) -> np.ndarray:
    """The frames uint8 [F,H,W,3] that a run's first window would have."""
    shape = shape_of(dataset, model)
    view = video.View(shape.height, shape.width, shape.fps, dataset.fit)
    with tempfile.TemporaryDirectory() as folder:
        path, _ = clip_files.fetched(clip, Path(folder), video.Limits.of(dataset))
        return taken_window(path, clip["clip"], dataset, Place(0, part_of(clip)), view, shape.frames).frames
