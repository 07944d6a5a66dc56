"""K-RNR's own table of reconstructions (arXiv 2506.08004, figure 10), with its protocol repeated on this model.

Theirs: CogVideoX-5B-I2V, inverted in 30 steps with "" at guidance 1, sampled in 50 at guidance 6 from strength 0.95,
pixels. The prompt is the clip's caption; their negative prompt and their change of guidance by step are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
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

ADAPTIVE = "K-RNR, order 10, adaptive"


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
        ADAPTIVE: (adaptive_k_rnr(bench.x_0, x_t, theta, 10), level),
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


def planned(bench: Bench) -> dict[str, Callable[[], Tensor]]:
    """What each row is sampled to: theirs in their order, then ours at guidance 6 and 1, then the VAE alone."""
    begun = cache(lambda: starts(bench))
    solved = cache(lambda: inverted(bench, SOLVED).states[-1])

    def guided_from(name: str) -> Tensor:
        x, level = begun()[name]
        return sampled(bench, x, guided(bench, GUIDANCE), level)[0]

    made: dict[str, Callable[[], Tensor]] = {"random noise + cached keys": lambda: cached(bench)}
    theirs = {name: made.get(name) or partial(guided_from, name) for name in (*THEIRS, ADAPTIVE)}
    return theirs | {
        "the implicit step solved, guidance 6": lambda: sampled(bench, solved(), guided(bench, GUIDANCE))[0],
        "the implicit step solved, guidance 1": lambda: sampled(bench, solved(), bench.rows())[0],
        "the VAE alone": lambda: bench.x_0,
    }


def published(
    bench: Bench,
    say: Callable[[str], None],
    known: Sequence[Row] = (),
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """All rows; those of `known` that have as many clips are not measured again. `keep` gets the rows after each."""
    found = []
    have = {row["start"]: row for row in known if len(row["by_clip"]) >= len(bench.x_0)}
    for name, measure in planned(bench).items():
        found.append(have[name] if name in have else row_of(name, bench.pixel_psnr(measure())))
        if name not in have:
            say(f"{name}: {found[-1]['pixel_db']} dB of pixels")
            keep(found)
    return found


def row_of(name: str, recon: np.ndarray) -> Row:
    low, high = interval(recon)
    row: Row = {"start": name, "theirs": THEIRS.get(name), "pixel_db": round(float(recon.mean()), 2)}
    row |= {"pixel_db_low": round(low, 2), "pixel_db_high": round(high, 2)}
    return row | {"by_clip": [round(float(db), 2) for db in recon]}
