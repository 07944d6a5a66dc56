"""What the setting auto means for a model: its precision, and whether its VAE works in tiles.

Both are decided from files' headers, the device and the clips' size, before weights are read, and are the same at each
start on such a device: its total memory counts, not the free part, because both are part of the keys.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
from safetensors import safe_open

from cogvideo_core.errors import BadSpec
from cogvideo_core.models import memory
from cogvideo_core.models.checkpoint import model_folder
from cogvideo_core.models.configuration import VideoShape, configured
from cogvideo_core.settings.specs import ModelSpec

STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
WIDE = 3072  # the width of 5B and 1.5, which were trained in bfloat16; 2B was in float16
OVERFLOWS = (
    "this model was trained in bfloat16; in float16 its values may overflow, and then its clips fail; "
    "set it to bfloat16 or float32"
)


def chosen_device(spec: ModelSpec) -> torch.device:
    """The device asked for, or the GPU where there is one. Raises BadSpec for what can't be."""
    has_gpu = torch.cuda.is_available()
    device = torch.device(("cuda" if has_gpu else "cpu") if spec.device == "auto" else spec.device)
    if device.type == "cuda" and not has_gpu:
        raise BadSpec(f"field device: {spec.device!r} asked for, but torch sees no GPU; use auto or cpu")
    if spec.weights != "stored" and spec.offload == "sequential":
        raise BadSpec(f"field weights: {spec.weights!r} can't be combined with offload=sequential; use model or none")
    if device.type == "cpu" and spec.offload != "none":
        raise BadSpec(f"field offload: {spec.offload!r} needs a GPU; use none on a CPU")
    return device


def placed(spec: ModelSpec, shape: VideoShape | None = None) -> ModelSpec:
    """The settings without `auto` for dtype and vae_tiling. `shape`: of the clips, where it is not the model's own.

    Raises ModelError and BadSpec.
    """
    if "auto" not in (spec.dtype, spec.vae_tiling):
        return spec
    folder, device = model_folder(spec), chosen_device(spec)
    dtype: str = spec.dtype
    if dtype == "auto":
        dtype = stored_precision(folder / "transformer") if device.type == "cuda" else "float32"
    tiling = spec.vae_tiling
    if tiling == "auto":
        shape = shape or configured(spec).shape
        held = weight_bytes(folder / "transformer", dtype) if spec.offload == "none" else 0
        held = held if spec.weights == "stored" else held // getattr(torch, dtype).itemsize
        room = total_bytes(device) - held - weight_bytes(folder / "vae", spec.vae_dtype)
        tiling = "on" if wants_tiles(folder, shape, getattr(torch, spec.vae_dtype), room) else "off"
    return spec.model_copy(update={"dtype": dtype, "vae_tiling": tiling})


def stored_precision(part: Path) -> str:
    """The dtype that most of a component's values are stored in."""
    counts = Counter[str]()
    for kind, values in _stored(part):
        counts[kind] += values
    return STORED.get(counts.most_common(1)[0][0], "float32") if counts else "float32"


def weight_bytes(part: Path, dtype: str) -> int:
    """Bytes of a component's weights, held in this dtype."""
    return sum(values for _, values in _stored(part)) * getattr(torch, dtype).itemsize


def _stored(part: Path) -> list[tuple[str, int]]:
    """(dtype, number of values) of each tensor, from the files' headers."""
    found = []
    for file in sorted(part.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                view = opened.get_slice(name)
                found.append((str(view.get_dtype()), int(torch.Size(view.get_shape()).numel())))
    return found


def total_bytes(device: torch.device) -> int:
    """Bytes a model may take on this device: a share of its total memory."""
    if device.type == "cuda":
        return int(memory.GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return int(memory.GPU_SHARE * min(psutil.virtual_memory().total, memory.container_bytes()))


def wants_tiles(folder: Path, shape: VideoShape, dtype: torch.dtype, room: int) -> bool:
    """Whether a whole frame does not fit into `room` bytes, and tiles both take less and add up to the frame."""
    config = (folder / "vae" / "config.json").read_text("utf-8")
    size = (shape.frames, shape.height, shape.width)
    whole, _ = decoding(config, size, dtype, False)
    if whole <= room:
        return False
    # one latent frame tells whether tiles add up; how they are joined does not depend on the others
    tiled, fits = decoding(config, (1, shape.height, shape.width), dtype, True)
    return fits and tiled < whole


@lru_cache(maxsize=32)
def decoding(config: str, size: tuple[int, int, int], dtype: torch.dtype, tiled: bool) -> tuple[int, bool]:
    """(peak bytes of decoding frames of F,H,W pixels without the weights, whether so many pixels come back).

    The VAE of this config.json runs on torch's meta device, where nothing is computed.
    """
    settings = json.loads(config)
    with torch.device("meta"):
        vae: Any = diffusers.AutoencoderKLCogVideoX.from_config(settings).to(dtype).eval()
    vae.use_tiling = tiled
    frames, height, width = size
    cell = 2 ** (len(vae.config.block_out_channels) - 1)
    latents = ((frames - 1) // 4 + 1, height // cell, width // cell)
    z = torch.empty(1, vae.config.latent_channels, *latents, device="meta", dtype=dtype)
    with torch.inference_mode(), memory.Lifetimes() as lifetimes:
        found = vae.decode(z).sample
    return lifetimes.peak, tuple(found.shape[-2:]) == (height, width)


def warnings(spec: ModelSpec, width: int) -> list[str]:
    """Warnings about a model's precision when a run is planned. width: the transformer's."""
    risky = [field for field in ("dtype", "vae_dtype") if getattr(spec, field) == "float16"]
    return [f"field model.{field}: {OVERFLOWS}" for field in risky] if width >= WIDE else []
