"""What the setting auto means for a model: its precision, whether its VAE works in tiles, and how it fits a card.

All of it is decided from files' headers, the device and the clips' size, before weights are read, and is the same at
each start on such a device: its total memory counts, not the free part, because precision and tiles are part of the
keys.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import psutil
import torch
from safetensors import safe_open

from cogvideo_core.errors import BadSpec
from cogvideo_core.models import memory, quantised
from cogvideo_core.models.checkpoint import model_folder
from cogvideo_core.models.compiling import check_compiler
from cogvideo_core.models.configuration import VideoShape, configured
from cogvideo_core.settings.specs import ModelSpec, RecipeSpec

STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
BESIDE = 8  # edits a call that must have room while the VAE decodes beside it
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
    if spec.weights != "stored" and spec.offload in ("sequential", "blocks"):
        raise BadSpec(
            f"field weights: {spec.weights!r} can't be combined with offload={spec.offload}; use model or none"
        )
    if spec.vae_overlap == "on" and spec.offload != "none":
        raise BadSpec(f"field vae_overlap: 'on' can't be combined with offload={spec.offload}; use off, or no offload")
    if device.type == "cpu" and spec.offload != "none":
        raise BadSpec(f"field offload: {spec.offload!r} needs a GPU; use none on a CPU")
    check_kernel(spec, device)
    check_compiler(spec)
    return device


def check_kernel(spec: ModelSpec, device: torch.device) -> None:
    """Raises BadSpec for an attention kernel that this device or installation does not have."""
    if spec.attention != "auto" and device.type != "cuda":
        raise BadSpec(f"field attention: {spec.attention!r} needs a CUDA GPU; use auto")
    if spec.attention == "sage" and not importlib.util.find_spec("sageattention"):
        raise BadSpec("field attention: 'sage' needs the package sageattention; install it, or use auto")
    if spec.attention in ("cudnn", "flash", "sage") and spec.dtype == "float32":
        raise BadSpec(f"field attention: {spec.attention!r} takes 16 bits only; set dtype to bfloat16, or use auto")


def placed(spec: ModelSpec, shape: VideoShape | None = None) -> ModelSpec:
    """The settings without `auto` for dtype and vae_tiling. `shape`: of the clips, where it is not the model's own.

    Raises ModelError and BadSpec.
    """
    if "auto" not in (spec.dtype, spec.vae_tiling, spec.fit):
        return spec
    folder = model_folder(spec)
    spec = quantised.held_as(spec, folder)
    device = chosen_device(spec)
    if spec.dtype == "auto":
        dtype = stored_precision(folder / "transformer") if device.type == "cuda" else "float32"
        spec = spec.model_copy(update={"dtype": dtype})
    if "auto" not in (spec.vae_tiling, spec.fit):
        return spec
    shape = shape or configured(spec).shape
    need = needs(spec, folder, shape) if spec.fit == "auto" else None
    if need:
        spec = fitted(spec, need, total_bytes(device), device.type == "cuda")
    if spec.vae_tiling == "auto":
        held = held_bytes(spec, weight_bytes(folder / "transformer", spec.dtype)) if spec.offload == "none" else 0
        room = total_bytes(device) - held - weight_bytes(folder / "vae", spec.vae_dtype)
        tiled = wants_tiles(folder, shape, getattr(torch, spec.vae_dtype), room)
        spec = spec.model_copy(update={"vae_tiling": "on" if tiled else "off"})
    if need and device.type == "cuda":
        spec = overlapped(spec, need, decoding_bytes(spec, folder, shape), total_bytes(device))
    return spec


class Needs(NamedTuple):
    """Bytes that a model needs on its device."""

    transformer: int  # weights in the model's precision
    vae: int  # weights
    text: int  # weights of the text encoder, which leaves when all prompts are embedded
    layers: int  # of the transformer
    row: int  # of a call
    decoding: int  # at its least, in tiles where these take less

    @property
    def call(self) -> int:
        """Of the smallest call: one guided edit and the reference."""
        return 3 * self.row


def needs(spec: ModelSpec, folder: Path, shape: VideoShape) -> Needs:
    """From the files' headers and configurations, for clips of this shape; `spec` has its dtype."""
    about, dtype = configured(spec), getattr(torch, spec.vae_dtype)
    size, text = (shape.frames, shape.height, shape.width), (folder / "vae" / "config.json").read_text("utf-8")
    whole, (tiled, fits) = decoding(text, size, dtype, False)[0], decoding(text, size, dtype, True)
    return Needs(
        weight_bytes(folder / "transformer", spec.dtype),
        weight_bytes(folder / "vae", spec.vae_dtype),
        weight_bytes(folder / "text_encoder", spec.dtype) // (2 if spec.text_weights == "int8" else 1),
        about.transformer_config.num_layers,
        memory.row_bytes(vars(about.transformer_config), about.latents(*size), getattr(torch, spec.dtype)),
        min(whole, tiled) if fits and spec.vae_tiling != "off" else whole,
    )


def fitted(spec: ModelSpec, need: Needs, room: int, gpu: bool) -> ModelSpec:
    """The first that fits into `room` bytes, with `fit` off: the settings as they are, weights in 8 bits, CPU offload,
    both, a block at a time. The text encoder goes to the CPU where it has no room beside the rest.

    The last if none fits: then the run says what memory does not suffice for.
    """
    eight = "int8" if importlib.util.find_spec("torchao") else "float8"
    weights = [spec.weights] if spec.weights != "stored" else ["stored", eight]
    offloads = [spec.offload] if spec.offload != "none" or not gpu else ["none", "model"]
    tries = [spec.model_copy(update={"fit": "off", "weights": w, "offload": o}) for o in offloads for w in weights]
    if "model" in offloads and spec.weights == "stored":
        tries.append(spec.model_copy(update={"fit": "off", "offload": "blocks"}))
    found = next((each for each in tries if _taken(each, need) <= room), tries[-1])
    text_fits = need.text + _held_with_prompts(found, need) <= room
    return found if text_fits or not gpu else found.model_copy(update={"text_device": "cpu"})


def overlapped(spec: ModelSpec, need: Needs, decoding_bytes: int, room: int) -> ModelSpec:
    """With the VAE beside the transformer where decoding and a call of `BESIDE` edits fit into `room` bytes at once.

    Where they don't, sharing a reference row saves more than decoding meanwhile would.
    """
    held = held_bytes(spec, need.transformer) + need.vae
    call = memory.most_rows(RecipeSpec(), BESIDE) * need.row
    fits = spec.offload == "none" and held + call + decoding_bytes <= room
    return spec.model_copy(update={"vae_overlap": "on"}) if fits else spec


def _taken(spec: ModelSpec, need: Needs) -> int:
    transformer = held_bytes(spec, need.transformer)
    if spec.offload == "none":
        return transformer + need.vae + max(need.call, need.decoding)
    if spec.offload == "blocks":  # one computes, the next is copied; the VAE stays
        return 2 * transformer // need.layers + need.vae + max(need.call, need.decoding)
    return max(transformer + need.call, need.vae + need.decoding)


def _held_with_prompts(spec: ModelSpec, need: Needs) -> int:
    """What is on the device while prompts are embedded, the text encoder aside."""
    if spec.offload == "none":
        return held_bytes(spec, need.transformer) + need.vae
    return need.vae if spec.offload == "blocks" else 0


def held_bytes(spec: ModelSpec, transformer: int) -> int:
    """Of the transformer's weights, which take so many in the model's precision."""
    return transformer if spec.weights == "stored" else transformer // getattr(torch, spec.dtype).itemsize


def told(spec: ModelSpec, device: torch.device) -> str:
    """A placed model in words: "cuda, bfloat16, weights in int8, VAE in tiles, offload model"."""
    parts = [str(device), spec.dtype]
    parts += [] if spec.weights == "stored" else [f"weights in {spec.weights}"]
    parts += ["VAE in tiles"] if spec.vae_tiling == "on" else []
    parts += ["VAE beside the transformer"] if spec.vae_overlap == "on" else []
    parts += ["text encoder on the CPU"] if spec.text_device == "cpu" and device.type != "cpu" else []
    return ", ".join([*parts, *([f"offload {spec.offload}"] if spec.offload != "none" else [])])


def stored_precision(part: Path) -> str:
    """The dtype that most of a component's values are stored in, or that quantised ones stand for."""
    if quantised.kind_of(part.parent) != "stored" and (stood_for := quantised.stored_dtype(part)):
        return stood_for
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


def decoding_bytes(spec: ModelSpec, folder: Path, shape: VideoShape) -> int:
    """Peak of decoding an edit as the settings say, without the weights."""
    config, size = (folder / "vae" / "config.json").read_text("utf-8"), (shape.frames, shape.height, shape.width)
    return decoding(config, size, getattr(torch, spec.vae_dtype), spec.vae_tiling == "on")[0]


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
