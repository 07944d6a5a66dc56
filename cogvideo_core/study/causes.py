"""Why inverted latents do not sample back: each candidate cause alone, beside an inversion that has none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion import inversion
from cogvideo_core.diffusion.ddim import Velocity, rotate
from cogvideo_core.diffusion.guidance import guide
from cogvideo_core.diffusion.schedule import Schedule, schedule_from_config
from cogvideo_core.study import candidates
from cogvideo_core.study.bench import Bench, interval
from cogvideo_core.study.inversion import Inverted, Inverter, inverted, sampled

Row = dict[str, Any]
SOLVED: Inverter = inversion.multistep_inversion


def cause(bench: Bench, name: str, x: Tensor, velocity: Velocity, level: int | None = None, text: str = "") -> Row:
    """What x (at `level`, the noisiest by default) is sampled back to with this velocity."""
    return told(name, bench.psnr(sampled(bench, x, velocity, level)[0]), text)


def told(name: str, recon: np.ndarray, text: str) -> Row:
    low, high = interval(recon)
    found = {"recon_db": float(recon.mean()), "recon_low": low, "recon_high": high}
    return {"cause": name, "what": text} | {key: round(value, 2) for key, value in found.items()}


def departure(bench: Bench, ddim: Inverted, solved: Inverted) -> Iterator[Row]:
    """The velocity of the departure point: everywhere, on the first level alone, everywhere else."""
    own = bench.rows()
    yield cause(bench, "none", solved.states[-1], own, text="implicit step solved on every level")
    yield cause(bench, "departure velocity", ddim.states[-1], own, text="DDIM inversion on every level")
    first: Inverter = partial(inversion.multistep_inversion, iterations=2, first_iterations=0)
    x = inverted(bench, first).states[-1]
    yield cause(bench, "departure velocity, first level", x, own, text="the other levels solved")
    x = inverted(bench, candidates.solved_first).states[-1]
    yield cause(bench, "departure velocity, other levels", x, own, text="the first level solved")


def rounding(bench: Bench, solved: Inverted) -> Iterator[Row]:
    """States held in 16 bits between the steps of the sampling, x_T and the last one included."""
    velocity = bench.rows()
    for dtype in (torch.float16, torch.bfloat16):
        x = solved.states[-1].to(dtype).float()
        for _, t, delta in reversed(inversion.turns(bench.schedule)):
            x = rotate(x, velocity(x, t), -delta).to(dtype).float()
        name = str(dtype).removeprefix("torch.")
        yield told(f"rounding to {name}", bench.psnr(x), "x_T and each state of the sampling held in 16 bits")


def ends_and_prompts(bench: Bench, ddim: Inverted, solved: Inverted) -> Iterator[Row]:
    below = bench.schedule.steps - 1
    text = "DDIM inversion, sampled from the last level below zero SNR"
    yield cause(bench, "zero-SNR end left out", ddim.states[below], bench.rows(), below, text)
    text = "inverted at guidance 1, sampled at 6 against the empty prompt"
    yield cause(bench, "guidance mismatch", solved.states[-1], guided(bench, 6.0), text=text)
    text = "inverted with the source prompt, sampled with none"
    yield cause(bench, "prompt mismatch", solved.states[-1], bench.rows("null"), text=text)
    x = inverted(bench, SOLVED, "null").states[-1]
    yield cause(bench, "prompt mismatch, reversed", x, bench.rows(), text="inverted with none, sampled with the source")


def guided(bench: Bench, scale: float) -> Velocity:
    cond, uncond = bench.rows(), bench.rows("null")
    return lambda x, t: guide(uncond(x, t), cond(x, t), scale)


def other_schedule(bench: Bench, factor: float = 3.0) -> Schedule:
    """Angles of a signal-to-noise ratio that is `factor` times the sampler's, at the same timesteps."""
    config = dict(bench.model.pipe.scheduler.config)
    return schedule_from_config(
        config | {"snr_shift_scale": config.get("snr_shift_scale", 1.0) / factor}, bench.schedule.steps
    )


def scheduler_mismatch(bench: Bench) -> Iterator[Row]:
    """`DDIMInverseScheduler(**config)` drops snr_shift_scale, 3 on 2B, and so inverts at 3 times the sampler's SNR."""
    x = inverted(bench, SOLVED, schedule=other_schedule(bench)).states[-1]
    text = "inverted at 3 times the sampler's SNR, as on 2B; the rest solved"
    yield cause(bench, "scheduler mismatch", x, bench.rows(), text=text)


def causes(bench: Bench, kept: dict[str, Inverted], say: Callable[[str], None] = lambda line: None) -> list[Row]:
    ddim, solved, rows = kept["ddim"], kept["multistep_15"], []
    parts = (
        departure(bench, ddim, solved),
        rounding(bench, solved),
        ends_and_prompts(bench, ddim, solved),
        scheduler_mismatch(bench),
    )
    for part in parts:
        for row in part:
            rows.append(row)
            say(f"{row['cause']}: {row['recon_db']} dB")
    return rows
