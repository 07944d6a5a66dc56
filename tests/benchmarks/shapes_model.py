"""What the shapes model can do by itself: VAE round trip on held-out clips, text to video by the plain pipeline.

    python tests/benchmarks/shapes_model.py

The last line is JSON: `vae_psnr_db`, `vae_ssim`, `vae_shape`, and for each guidance scale the share of 100 generated
clips in which the oracle reads each attribute as asked; half of the prompts were never trained on.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from diffusers import CogVideoXPipeline
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cogvideo_core.model import VideoModel, model_folder
from cogvideo_core.shapes import oracle, world
from cogvideo_core.shapes.generate import success
from cogvideo_core.specs import ModelSpec

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--guidance", type=float, action="append", help="scales to try; 6 by default")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--clips", type=int, default=100)
    args = parser.parse_args()
    pipe = CogVideoXPipeline.from_pretrained(model_folder(ModelSpec(path=args.model)), use_safetensors=True)
    found: dict[str, object] = {}
    for scale in args.guidance or [6.0]:
        found[f"text_to_video_{scale:g}"] = success(pipe, args.prompts, guidance=scale)
        print(f"guidance {scale:g}: {found[f'text_to_video_{scale:g}']}", flush=True)
    found |= vae_round_trip(VideoModel(pipe, ModelSpec(path=args.model)), args.clips)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
