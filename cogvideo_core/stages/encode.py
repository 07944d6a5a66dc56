"""The first stage of a clip: from its file to latents, and to the source video as the model sees it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideo_core.errors import CorruptObject
from cogvideo_core.inputs import clip_files
from cogvideo_core.media import video
from cogvideo_core.media.window import Place, taken_window
from cogvideo_core.models.vae import finite
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.stages import screen, whole_encode
from cogvideo_core.stages.first_frame import encode_first_frame
from cogvideo_core.stages.masks import encode_mask
from cogvideo_core.stages.screen import Placed
from cogvideo_core.stages.units import frames_spec, latents_spec, part_of, shape_of, source_spec
from cogvideo_core.stages.whole import whole_of
from cogvideo_core.stages.work import Record, Work, timed
from cogvideo_core.storage.ledger import Commit


class Encoded(NamedTuple):
    """What is committed of a clip, and what the screen says of it. latents: keys, one for each window."""

    content: str
    latents: list[str]
    source: Commit
    columns: Record

    @property
    def keys(self) -> Record:
        if len(self.latents) == 1:
            return {"latents_key": self.latents[0]}
        return {
            "latents_key": fingerprint(self.latents),
            "window_keys": [{"latents_key": key} for key in self.latents],
        }


def encode_clip(work: Work, clip: Record) -> Record:
    """Latents, and the source video as the model sees it; image latents of an edited first frame, if the clip has one.

    Adds content, latents_key, source_key, first_frame, first_frame_key, mask_key, the screen's columns and the source's
    own fields; where the clip has several windows, also their window_keys.
    """
    record = dict(clip)
    with timed(record, "encode") as row:
        record |= encode_first_frame(work, clip)
        content = _known_content(work, clip)
        units = _reused(work, clip, content) if content else None
        row["reused"] = units is not None
        units = units or _encode_file(work, clip)
    about = {"content": units.content, "source_key": units.source.key}
    record |= about | units.keys | units.source.record | units.columns
    return record | encode_mask(work, record)


def _known_content(work: Work, clip: Record) -> str:
    """sha256 of a file that was opened before and has not changed since, as far as its store tells; else ""."""
    if not clip["stamp"]:  # a store that tells neither date nor etag
        return ""
    known = work.find("clips", fingerprint({"source_id": clip["source_id"]}))
    return str(known.record["content"]) if known else ""


def _specs(work: Work, clip: Record, placed: Placed, content: str) -> tuple[Record, Record]:
    frames = frames_spec(work.dataset, work.model, content, placed.number, part_of(clip), placed.start_s)
    return latents_spec(frames, work.model), source_spec(frames, work.output)


def _reused(work: Work, clip: Record, content: str) -> Encoded | None:
    """What is committed of a file that need not be opened; None where it must be."""
    looked = screen.known(work.screening, clip, content)
    return None if looked is None else _encoded(work, clip, screen.placed(work.screening, clip, looked), content)


def _encoded(work: Work, clip: Record, placed: Placed, content: str) -> Encoded | None:
    """The units of a content, or None where one is missing."""
    if whole := whole_of(clip):
        both = whole_encode.known(work, clip, whole, content)
        return Encoded(content, *both, placed.columns) if both else None
    specs = _specs(work, clip, placed, content)
    latents, source = work.find("latents", fingerprint(specs[0])), work.find("sources", fingerprint(specs[1]))
    return Encoded(content, [latents.key], source, placed.columns) if latents and source else None


def _encode_file(work: Work, clip: Record) -> Encoded:
    """Opens the file; the same content under another path finds its units here."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, content = clip_files.fetched(clip, folder, video.Limits.of(work.dataset))
        units = _reused(work, clip, content) or _encode_new(work, clip, path, folder, content)
    if clip["stamp"]:
        alias = {"source_id": clip["source_id"]}
        work.ledger.commit("clips", fingerprint(alias), {}, alias, {"content": content})
    return units


def _encode_new(work: Work, clip: Record, path: Path, folder: Path, content: str) -> Encoded:
    """Decodes the window, and commits its latents and its source video where they are not committed yet."""
    shape, name = shape_of(work.dataset, work.model), clip["clip"]
    found = video.probe(path, name, video.Limits.of(work.dataset))
    placed = screen.placed(work.screening, clip, screen.screened(work.screening, clip, path, content, found))
    if units := _encoded(work, clip, placed, content):  # of a run before there was a screen
        return units
    if whole := whole_of(clip):
        return Encoded(content, *whole_encode.encode_whole(work, clip, whole, path, content), placed.columns)
    view = video.View(shape.height, shape.width, shape.fps, work.dataset.fit)
    where = Place(placed.number, part_of(clip), placed.start_s)
    frames, found, window, damaged = taken_window(path, name, work.dataset, where, view, shape.frames)
    latents_of, source_of = _specs(work, clip, placed, content)
    latents = work.find("latents", fingerprint(latents_of))
    if latents is None:
        file = folder / "latents.safetensors"
        save_file({name: x.contiguous() for name, x in _tensors(work, frames).items()}, file)
        latents = work.ledger.commit("latents", fingerprint(latents_of), {file.name: file}, latents_of, {})
    audio = (path, found, window) if found.has_audio and work.output.audio == "copy" else None
    video.encode(frames, folder / "source.mp4", shape.fps, work.output.crf, audio)
    record: Record = {"frames": shape.frames, "height": shape.height, "width": shape.width, "fps": shape.fps}
    record |= {"has_audio": audio is not None, "probe": found.as_json(), "damaged_frames": damaged}
    files = {"source.mp4": folder / "source.mp4"}
    source = work.ledger.commit("sources", fingerprint(source_of), files, source_of, record)
    return Encoded(content, [latents.key], source, placed.columns)


def _tensors(work: Work, frames: np.ndarray) -> dict[str, Tensor]:
    """latents [f,C,h,w]; for an image-to-video model also image [C,h,w], the image latents of the first frame."""
    image = {"image": work.model.encode_image(frames[0])} if work.model.image_to_video else {}
    return {"latents": work.model.encode(frames)} | image


def read_latents(work: Work, latents_key: str) -> dict[str, Tensor]:
    """The float32 tensors of a committed unit: latents [f,C,h,w] and image [C,h,w], or one of them."""
    commit = work.ledger.find("latents", latents_key, "full")
    if commit is None:
        raise CorruptObject(f"latents {latents_key[:12]} are missing or damaged and were set aside; run again")
    with tempfile.TemporaryDirectory() as folder:
        found = load_file(work.ledger.fetch(commit, "latents.safetensors", Path(folder)))
    vae_dtype = getattr(torch, work.model.spec.vae_dtype)
    return {name: finite(values, "VAE's encoder", vae_dtype, "model.vae_dtype") for name, values in found.items()}
