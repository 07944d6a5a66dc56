"""K-RNR's own table of reconstructions (arXiv 2506.08004, figure 10), with its protocol repeated on this model.

Theirs: CogVideoX-5B-I2V, inverted in 30 steps with "" at guidance 1, sampled in 50 at guidance 6 from strength 0.95,
pixels. The prompt is the clip's caption; their negative prompt and their change of guidance by step are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.ddim import noised
from cogvideo_core.diffusion.inversion import ddim_inversion, seeded_noise
from cogvideo_core.settings.presets import unwindowed
from cogvideo_core.study.bench import Bench, interval
from cogvideo_core.study.causes import SOLVED, guided
from cogvideo_core.study.combined import GUIDANCE, steps_up
from cogvideo_core.study.inversion import inverted, sampled
from cogvideo_core.study.starts import adaptive_k_rnr, k_rnr

Row = dict[str, Any]
STRENGTH = 0.95
THEIRS = {  # their PSNR in dB
    "random noise": 12.03,
    "encoded video + random noise": 15.97,
    "DDIM inversion": 9.08,
    "encoded video + DDIM inversion": 10.16,
    "random noise + cached keys": 23.98,
    "K-RNR": 29.56,
}


def starts(bench: Bench) -> dict[str, tuple[Tensor, int]]:
    """Their ways to begin: a state [R,f,C,h,w] and the level that it is taken for."""
    steps = bench.schedule.steps
    level = min(int(steps * STRENGTH), steps)
    theta, noise = bench.schedule.thetas[level], seeded_noise(bench.x_0.shape, 0).to(bench.x_0)
    up = bench.on(bench.model.schedule(steps_up(bench)))
    x_t = inverted(up, ddim_inversion, "null").states[-1]
    return {
        "random noise": (noise, steps),
        "encoded video + random noise": (noised(bench.x_0, noise, theta), level),
        "DDIM inversion": (x_t, level),
        "encoded video + DDIM inversion": (k_rnr(bench.x_0, x_t, theta, 1), level),
        "K-RNR": (k_rnr(bench.x_0, x_t, theta, 3), level),
        "K-RNR, order 10, adaptive": (adaptive_k_rnr(bench.x_0, x_t, theta, 10), level),
    }


def cached(bench: Bench) -> Tensor:
    """Fresh noise beside a reference row, DDIM inversion's, in every step and layer: "random noise + KV caching"."""
    states = inverted(bench, ddim_inversion, "null").states
    noise, recipe = seeded_noise(bench.x_0.shape, 0).to(bench.x_0), unwindowed(guidance_scale=GUIDANCE, start="fresh")
    back = []
    for row in range(len(bench.x_0)):
        one = slice(row, row + 1)
        texts = editing.Texts(bench.source[one], bench.null[one], bench.null[one])
        velocity = bench.model.conditioned(None if bench.images is None else bench.images[row])
        path, layers = [state[row] for state in states], bench.model.layers
        back.append(editing.edited(velocity, noise[one], texts, path, bench.schedule, recipe, layers))
    return torch.cat(back)


def rows(bench: Bench) -> Iterator[tuple[str, np.ndarray]]:
    """Each row's name and its dB by clip: theirs in their order, then ours at guidance 6 and 1, then the VAE alone."""
    begun = starts(bench)
    for name, (x, level) in begun.items():
        if name == "K-RNR":
            yield "random noise + cached keys", bench.pixel_psnr(cached(bench))
        yield name, bench.pixel_psnr(sampled(bench, x, guided(bench, GUIDANCE), level)[0])
    x_t = inverted(bench, SOLVED).states[-1]
    solved = {"the implicit step solved, guidance 6": guided(bench, GUIDANCE)}
    for name, velocity in (solved | {"the implicit step solved, guidance 1": bench.rows()}).items():
        yield name, bench.pixel_psnr(sampled(bench, x_t, velocity)[0])
    yield "the VAE alone", bench.pixel_psnr(bench.x_0)


def published(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    found = []
    for name, recon in rows(bench):
        low, high = interval(recon)
        row: Row = {"start": name, "theirs": THEIRS.get(name), "pixel_db": round(float(recon.mean()), 2)}
        row |= {"pixel_db_low": round(low, 2), "pixel_db_high": round(high, 2)}
        found.append(row | {"by_clip": [round(float(db), 2) for db in recon]})
        say(f"{name}: {row['pixel_db']} dB of pixels")
    return found
