"""What the shapes model can do by itself: VAE round trip on held-out clips, text to video by the plain pipeline.

    python tests/benchmarks/shapes_model.py
    python tests/benchmarks/shapes_model.py --prompts 400      # the first 100 of them are those of the plain call

The last line is JSON: `vae_psnr_db`, `vae_ssim`, `vae_shape`, and for each guidance scale the share of 100 generated
clips in which the oracle reads each attribute as asked, with its 95 % (Wilson) interval; half of the prompts were never
trained on.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import Executor
from functools import cache, partial

import numpy as np
from diffusers import CogVideoXPipeline
from shapes_edit import crew
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cogvideo_core.models.model import VideoModel, chosen_device, load, model_folder
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import oracle, world
from cogvideo_core.shapes.generate import success

PART = 25  # clips of one call
HELD_OUT_SEED = 810_000  # clips that neither training nor its checks have seen


def vae_round_trip(model: VideoModel, clips: int) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over held-out clips, and the share whose shape the oracle still reads right."""
    psnr, ssim, shapes = [], [], []
    for i in range(clips):
        scene = world.scene_from_seed(HELD_OUT_SEED + i, world.held_out_combinations())
        frames = world.render(scene)
        again = model.decode(model.encode(frames))
        psnr.append(peak_signal_noise_ratio(frames, again))
        ssim.append(np.mean([structural_similarity(a, b, channel_axis=-1) for a, b in zip(frames, again, strict=True)]))
        shapes.append(oracle.read(again).shape == scene.combination.shape)
    means = {"vae_psnr_db": np.mean(psnr), "vae_ssim": np.mean(ssim), "vae_shape": np.mean(shapes)}
    return {name: round(float(value), 4) for name, value in means.items()}


@cache
def pipeline(path: str) -> CogVideoXPipeline:
    spec = ModelSpec(path=path)
    return CogVideoXPipeline.from_pretrained(model_folder(spec), use_safetensors=True).to(chosen_device(spec))


def part_of(path: str, guidance: float, prompts: int, first: int) -> dict[str, float]:
    """Right clips among the prompts first .. first + 24, by attribute."""
    count = min(PART, prompts - first)
    return {name: share * count for name, share in success(pipeline(path), count, 0, guidance, first=first).items()}


def wilson(share: float, count: int, z: float = 1.96) -> list[float]:
    """The 95 % interval of a share of `count`."""
    middle, reach = share + z**2 / (2 * count), z * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5
    return [round((middle + way * reach) / (1 + z**2 / count), 3) for way in (-1, 1)]


def text_to_video(pool: Executor, path: str, guidance: float, prompts: int) -> dict[str, list[float]]:
    """[share, low, high] by attribute."""
    parts = list(pool.map(partial(part_of, path, guidance, prompts), range(0, prompts, PART)))
    shares = {name: round(sum(part[name] for part in parts) / prompts, 3) for name in parts[0]}
    return {name: [share, *wilson(share, prompts)] for name, share in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--guidance", type=float, action="append", help="scales to try; 6 by default")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; one a core by default")
    args = parser.parse_args()
    found: dict[str, object] = {}
    with crew(args.jobs) as pool:
        for scale in args.guidance or [6.0]:
            found[f"text_to_video_{scale:g}"] = text_to_video(pool, args.model, scale, args.prompts)
            print(f"guidance {scale:g}: {found[f'text_to_video_{scale:g}']}", flush=True)
    found |= vae_round_trip(load(ModelSpec(path=args.model)), args.clips)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
