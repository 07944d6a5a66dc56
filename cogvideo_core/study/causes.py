"""Why inverted latents do not sample back: each candidate cause alone, beside an inversion that has none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
Rows = dict[str, Callable[[str], Row]]
"""By a cause's name, what measures its row; it is given the name."""
SOLVED: Inverter = inversion.multistep_inversion


def cause(bench: Bench, name: str, x: Tensor, velocity: Velocity, level: int | None = None, text: str = "") -> Row:
    """What x (at `level`, the noisiest by default) is sampled back to with this velocity."""
    return told(name, bench.psnr(sampled(bench, x, velocity, level)[0]), text)


def told(name: str, recon: np.ndarray, text: str) -> Row:
    low, high = interval(recon)
    found = {"recon_db": float(recon.mean()), "recon_low": low, "recon_high": high}
    figures: Row = {key: round(value, 2) for key, value in found.items()}
    return {"cause": name, "what": text} | figures | {"by_clip": [round(float(db), 2) for db in recon]}


def departure(bench: Bench, kept: Mapping[str, Inverted]) -> Rows:
    """The velocity of the departure point: everywhere, on the first level alone, everywhere else."""
    first: Inverter = partial(inversion.multistep_inversion, iterations=2, first_iterations=0)
    return {
        "none": lambda name: cause(
            bench, name, kept["multistep_15"].states[-1], bench.rows(), text="implicit step solved on every level"
        ),
        "departure velocity": lambda name: cause(
            bench, name, kept["ddim"].states[-1], bench.rows(), text="DDIM inversion on every level"
        ),
        "departure velocity, first level": lambda name: cause(
            bench, name, inverted(bench, first).states[-1], bench.rows(), text="the other levels solved"
        ),
        "departure velocity, other levels": lambda name: cause(
            bench,
            name,
            inverted(bench, candidates.solved_first).states[-1],
            bench.rows(),
            text="the first level solved",
        ),
    }


def rounded(bench: Bench, kept: Mapping[str, Inverted], dtype: torch.dtype, name: str) -> Row:
    """States held in 16 bits between the steps of the sampling, x_T and the last one included."""
    velocity = bench.rows()
    x = kept["multistep_15"].states[-1].to(dtype).float()
    for _, t, delta in reversed(inversion.turns(bench.schedule)):
        x = rotate(x, velocity(x, t), -delta).to(dtype).float()
    return told(name, bench.psnr(x), "x_T and each state of the sampling held in 16 bits")


def rounding(bench: Bench, kept: Mapping[str, Inverted]) -> Rows:
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return {f"rounding to {name}": partial(rounded, bench, kept, dtype) for name, dtype in dtypes.items()}


def ends_and_prompts(bench: Bench, kept: Mapping[str, Inverted]) -> Rows:
    below = bench.schedule.steps - 1

    def x_t() -> Tensor:
        return kept["multistep_15"].states[-1]

    return {
        "zero-SNR end left out": lambda name: cause(
            bench,
            name,
            kept["ddim"].states[below],
            bench.rows(),
            below,
            "DDIM inversion, sampled from the last level below zero SNR",
        ),
        "guidance mismatch": lambda name: cause(
            bench,
            name,
            x_t(),
            guided(bench, 6.0),
            text="inverted at guidance 1, sampled at 6 against the empty prompt",
        ),
        "prompt mismatch": lambda name: cause(
            bench, name, x_t(), bench.rows("null"), text="inverted with the source prompt, sampled with none"
        ),
        "prompt mismatch, reversed": lambda name: cause(
            bench,
            name,
            inverted(bench, SOLVED, "null").states[-1],
            bench.rows(),
            text="inverted with none, sampled with the source",
        ),
    }


def guided(bench: Bench, scale: float) -> Velocity:
    cond, uncond = bench.rows(), bench.rows("null")
    return lambda x, t: guide(uncond(x, t), cond(x, t), scale)


def other_schedule(bench: Bench, factor: float = 3.0) -> Schedule:
    """Angles of a signal-to-noise ratio that is `factor` times the sampler's, at the same timesteps."""
    config = dict(bench.model.pipe.scheduler.config)
    return schedule_from_config(
        config | {"snr_shift_scale": config.get("snr_shift_scale", 1.0) / factor}, bench.schedule.steps
    )


def scheduler_mismatch(bench: Bench, name: str) -> Row:
    """`DDIMInverseScheduler(**config)` drops snr_shift_scale, 3 on 2B, and so inverts at 3 times the sampler's SNR."""
    x = inverted(bench, SOLVED, schedule=other_schedule(bench)).states[-1]
    text = "inverted at 3 times the sampler's SNR, as on 2B; the rest solved"
    return cause(bench, name, x, bench.rows(), text=text)


def causes(
    bench: Bench,
    kept: Mapping[str, Inverted],
    say: Callable[[str], None] = lambda line: None,
    known: Mapping[str, Row] | None = None,
) -> list[Row]:
    """All rows; `known` holds those that need not be measured again."""
    rows, known = [], known or {}
    planned = departure(bench, kept) | rounding(bench, kept) | ends_and_prompts(bench, kept)
    planned |= {"scheduler mismatch": partial(scheduler_mismatch, bench)}
    for name, measure in planned.items():
        rows.append(known[name] if name in known else measure(name))
        if name not in known:
            say(f"{name}: {rows[-1]['recon_db']} dB")
    return rows
