"""Frames of a benchmark's clips, masks and results as arrays, and back to files as evaluators want them."""

from __future__ import annotations

import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cogvideo_core.benchmarks.cases import Form
from cogvideo_core.errors import ClipError, about_field
from cogvideo_core.inputs.frame_folders import Frame, frames_in
from cogvideo_core.media import video
from cogvideo_core.media.masks import LIGHT
from cogvideo_core.media.still import read_image
from cogvideo_core.settings.specs import DatasetSpec

WRITERS = 4
MOST_BYTES = 2_000_000_000  # of pixels that are held at a time
JPEG = {"quality": 95, "subsampling": 0}
PNG = {"compress_level": 3}
Size = tuple[int, int]
"""(height, width)"""


def size_of(clip: str) -> Size:
    """Pixels of a clip as it is shown. Raises ClipError and its kinds."""
    path, limits = Path(clip), video.Limits.of(DatasetSpec())
    if path.is_dir():
        return _picture(path, frames_in(clip, clip)[0]).shape[:2]
    width, height, aspect = video.probe(path, clip, limits).shown
    return height, max(1, round(width * aspect))


def target_size(clip: str, form: Form, made: Size) -> Size:
    """The size an edit is laid out in: the clip's, or the clip's shape with about as many pixels as were made, even."""
    height, width = size_of(clip)
    if form.size == "model":
        factor = min(1.0, (made[0] * made[1] / (height * width)) ** 0.5)
        height, width = (max(2, 2 * round(side * factor / 2)) for side in (height, width))
    elif form.kind == "mp4":
        height, width = (max(2, 2 * round(side / 2)) for side in (height, width))
    return height, width


def resized(frames: np.ndarray, size: Size) -> np.ndarray:
    """Frames uint8 [F,H,W,3] in another size."""
    if frames.shape[1:3] == size:
        return frames
    wanted = (size[1], size[0])
    return np.stack([np.asarray(Image.fromarray(frame).resize(wanted, Image.Resampling.LANCZOS)) for frame in frames])


def write_frames(frames: np.ndarray, place: Path, form: Form, fps: int) -> None:
    """Frames uint8 [F,H,W,3] as a folder of pictures, or as an mp4; it takes the place of what was there, whole or
    not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if form.kind == "mp4":
        video.encode(frames, place, fps)
        return
    part, old = (place.with_name(f".{uuid.uuid4().hex}.part") for _ in range(2))
    part.mkdir()
    try:
        options = JPEG if form.kind == "jpg" else PNG
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(partial(_write, part, options), form.names(len(frames)), frames))
        if place.exists():
            os.replace(place, old)
        os.replace(part, place)
    finally:
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, options: dict[str, Any], name: str, frame: np.ndarray) -> None:
    Image.fromarray(frame).save(folder / name, **options)


def read_frames(place: Path, most: int = 0) -> np.ndarray:
    """The first frames of a folder of numbered pictures, or of a video at its own rate: uint8 [F,H,W,3], at most so
    many, and as many as 2 GB hold. Raises ClipError and its kinds."""
    name = str(place)
    if not place.is_dir():
        return _video(place, most)
    listed = frames_in(name, name)
    first = _picture(place, listed[0])
    listed = listed[: min(most or len(listed), max(1, MOST_BYTES // first.nbytes))]
    pictures = [first, *(_picture(place, frame) for frame in listed[1:])]
    if len({picture.shape for picture in pictures}) > 1:
        raise ClipError(name, "its frames differ in size", "lay it out again")
    return np.stack(pictures)


def _video(path: Path, most: int) -> np.ndarray:
    name, limits = str(path), video.Limits.of(DatasetSpec())
    found = video.probe(path, name, limits)
    width, height, aspect = found.shown
    fps = max(1, round(found.fps))
    view = video.View(height, round(width * aspect), fps, "stretch")
    whole, held = max(1, round(found.seconds * fps)), max(1, MOST_BYTES // (view.height * view.width * 3))
    return video.decode(path, name, found, video.Window(0, 0.0, min(most or whole, whole, held)), view, limits)


def read_mask(folder: Path, count: int, size: Size) -> np.ndarray | None:
    """The first masks of a folder, in a size: bool [F,H,W]; None where there are fewer. In pictures of labels every
    label counts. Raises ClipError and its kinds."""
    name = str(folder)
    frames = frames_in(name, name)
    if len(frames) < count:
        return None
    masks = [Image.fromarray(_picture(folder, frame).max(-1)) for frame in frames[:count]]
    return np.stack([np.asarray(mask.resize((size[1], size[0]), Image.Resampling.BOX)) >= LIGHT for mask in masks])


def _picture(folder: Path, frame: Frame) -> np.ndarray:
    with about_field(str(folder), "frame"):
        limits = video.Limits.of(DatasetSpec())
        if frame.size > limits.max_bytes:
            raise ClipError(frame.name, f"it has {frame.size} bytes", "scale it down")
        return np.asarray(read_image((folder / frame.name).read_bytes(), frame.name, limits.max_pixels))
