"""Text to video by the plain diffusers pipeline, marked by the oracle: what the shapes model can do by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cogvideo_core.shapes import build, oracle, world


def generated(pipe: Any, prompts: list[str], seed: int = 0, guidance: float = 6.0, steps: int = 50) -> np.ndarray:
    """Clips of the plain diffusers pipeline: uint8 [n,F,H,W,3]."""
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        prompt=prompts,
        num_frames=world.FRAMES,
        height=world.SIZE_PX,
        width=world.SIZE_PX,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=build.MAX_TEXT_TOKENS,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
        output_type="np",
    ).frames
    return np.rint(np.asarray(frames) * 255).astype(np.uint8)


def prompt_list(count: int) -> Iterator[world.Combination]:
    """Half held-out, half trained combinations, spread evenly."""
    pools = (world.held_out_combinations(), world.train_combinations())
    for i in range(count):
        pool = pools[i % 2]
        yield pool[(i // 2) * 7 % len(pool)]


def success(
    pipe: Any, prompts: int = 100, seed: int = 0, guidance: float = 6.0, steps: int = 50, first: int = 0
) -> dict[str, float]:
    """Share of generated clips in which the oracle reads each attribute as asked, for prompts from `first` on."""
    wanted = list(prompt_list(first + prompts))
    hits: dict[str, list[bool]] = {name: [] for name in world.Combination._fields}
    for start in range(first, first + prompts, 25):
        part = wanted[start : start + 25]
        captions = [c.caption(start + i) for i, c in enumerate(part)]
        for frames, combination in zip(generated(pipe, captions, seed + start, guidance, steps), part, strict=True):
            for name, hit in oracle.read(frames).matches(combination).items():
                hits[name].append(hit)
    return {name: round(float(np.mean(values)), 3) for name, values in hits.items()}
