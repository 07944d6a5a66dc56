"""An edited first frame: from the file that a manifest names to image latents. The file is untrusted.

`media.still` reads it. Its bytes are read once, so what is hashed is what is decoded.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.torch import save_file

from cogvideo_core.errors import about_field
from cogvideo_core.inputs import clip_files
from cogvideo_core.media.still import read_image
from cogvideo_core.media.video import Fit
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.stages.units import first_frame_spec, shape_of
from cogvideo_core.stages.work import Record, Work


def encode_first_frame(work: Work, clip: Record) -> Record:
    """sha256 of the clip's edited first frame and the key of its image latents, made if missing; "" where it has none.

    Raises ClipError and its kinds, StorageError.
    """
    if not clip["image_uri"]:
        return {"first_frame": "", "first_frame_key": ""}
    with about_field(clip["clip"], "first_frame_uri"):
        data = clip_files.small_file(clip["first_frame_uri"], clip["image_uri"], "give a smaller image")
        content = hashlib.sha256(data).hexdigest()
        spec = first_frame_spec(work.dataset, work.model, content)
        key = fingerprint(spec)
        if work.find("latents", key) is None:
            _commit(work, key, spec, read_image(data, clip["first_frame_uri"], work.dataset.max_pixels))
    return {"first_frame": content, "first_frame_key": key}


def _commit(work: Work, key: str, spec: Record, image: Image.Image) -> None:
    shape = shape_of(work.dataset, work.model)
    frame = fitted(image, shape.height, shape.width, work.dataset.fit)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latents.safetensors"
        save_file({"image": work.model.encode_image(frame).contiguous()}, file)
        work.ledger.commit("latents", key, {file.name: file}, spec, {})


def fitted(image: Image.Image, height: int, width: int, fit: Fit) -> np.ndarray:
    """uint8 [height,width,3] of an RGB picture: cut, padded with black or stretched, as `dataset.fit` says of clips."""
    size, bicubic = (width, height), Image.Resampling.BICUBIC
    if fit == "crop":
        image = ImageOps.fit(image, size, bicubic)
    elif fit == "pad":
        image = ImageOps.pad(image, size, bicubic, "black")
    return np.array(image.resize(size, bicubic))  # a copy: torch warns of read-only arrays
