"""Which inverter reconstructs, at what cost: every row by plain DDIM sampling from its x_T alone, at guidance 1.

Exact rows are the exception: they carry more than x_T, and are sampled with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion import inversion
from cogvideo_core.diffusion.ddim import Velocity, sample
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.settings.specs import InversionSpec
from cogvideo_core.study import candidates, grids
from cogvideo_core.study.bench import Bench, Rows, interval, noise_statistics
from cogvideo_core.study.seed_attempt import attempt
from cogvideo_core.study.starts import STARTS

Row = dict[str, Any]
Inverter = Callable[[Velocity, Tensor, Schedule], Iterator[Tensor]]
QUICK_LEVELS = 10  # that the gate's quick form samples back


class Inverted(NamedTuple):
    """An inverter's states by level [R,f,C,h,w], and its evaluations a clip."""

    states: list[Tensor]
    evaluations: int


def by_settings(**fields: Any) -> Inverter:
    return partial(_by_settings, InversionSpec(**fields))


def _by_settings(settings: InversionSpec, velocity: Velocity, x_0: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    return inversion.invert(velocity, x_0, schedule, settings)


SPENT = (15, 5, 3, 3, 2, 1)  # iterations by level, most on the first ones

# All get the source prompt, except those whose name ends in _null.
INVERTERS: dict[str, Inverter] = {
    "ddim": by_settings(method="ddim"),
    "ddim_null": by_settings(method="ddim"),
    "explicit": candidates.explicit,
    "fixed_point_1": by_settings(method="fixed_point", iterations=1),
    "fixed_point_3": by_settings(method="fixed_point", iterations=3),
    "fixed_point_5": by_settings(method="fixed_point", iterations=5),
    "fixed_point_where_it_matters": partial(candidates.scheduled, iterations=SPENT),
    "first_level_solved": candidates.solved_first,
    "multistep_5": by_settings(first_iterations=5),
    "multistep_15": by_settings(first_iterations=15),
    "multistep_30_3": by_settings(first_iterations=30, iterations=3),
    "forward_noised_1": partial(candidates.forward_noised, levels=1),
    "forward_noised_2": partial(candidates.forward_noised, levels=2),
    "k_rnr_3": candidates.k_rnr,
    "none": by_settings(method="none"),
}


KEPT = ("ddim", "multistep_15")  # that other rows and the causes start from
GRIDS = {  # which inverter, on which grid
    "ddim_trdi": ("ddim", "trdi"),
    "multistep_15_trdi": ("multistep_15", "trdi"),
    "ddim_by_error": ("ddim", "by_error"),
    "multistep_15_by_error": ("multistep_15", "by_error"),
}


class Kept(dict[str, Inverted]):
    """Inversions that several rows start from, each made when it is first asked for."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench

    def __missing__(self, name: str) -> Inverted:
        self[name] = inverted(self.bench, INVERTERS[name])
        return self[name]


def inverted(bench: Bench, inverter: Inverter, prompt: str = "source", schedule: Schedule | None = None) -> Inverted:
    velocity = bench.rows(prompt)
    states = list(inverter(velocity, bench.x_0, schedule or bench.schedule))
    return Inverted(states, velocity.spent)


def sampled(bench: Bench, x: Tensor, velocity: Velocity, level: int | None = None) -> list[Tensor]:
    """States from `level` (the noisiest by default) down to the clean one, by level."""
    first = 0 if level is None else bench.schedule.steps - level
    return [*reversed([x, *sample(velocity, x, bench.schedule, first)])]


def figures(bench: Bench, name: str, evaluations: int, x_t: Tensor, recon: np.ndarray, **more: Any) -> Row:
    """A row of the study; recon is dB by clip."""
    low, high = interval(recon)
    found = {
        "inverter": name,
        "evaluations": evaluations,
        "recon_db": round(float(recon.mean()), 2),
        "recon_low": round(low, 2),
        "recon_high": round(high, 2),
        **{key: round(value, 3) for key, value in noise_statistics(x_t).items()},
    }
    return found | {"exact": False, "stored_bytes": 0, "by_clip": [round(float(db), 2) for db in recon]} | more


def plain_row(bench: Bench, name: str, found: Inverted) -> Row:
    """A row sampled from x_T alone, and from the level where the gate's quick form starts; its error by level."""
    velocity = bench.rows("null" if name.endswith("_null") else "source")
    back = sampled(bench, found.states[-1], velocity)
    level = min(QUICK_LEVELS, bench.schedule.steps)
    quick = bench.psnr(sampled(bench, found.states[level], velocity, level)[0])
    off = [float((a - b).square().mean().sqrt()) for a, b in zip(back, found.states, strict=True)]
    more = {"quick_db": round(float(quick.mean()), 2), "quick_by_clip": [round(float(db), 2) for db in quick]}
    return figures(
        bench, name, found.evaluations, found.states[-1], bench.psnr(back[0]), **more, off=[round(x, 5) for x in off]
    )


def inverter_row(bench: Bench, name: str, kept: Kept) -> Row:
    prompt = "null" if name.endswith("_null") else "source"
    return plain_row(bench, name, kept[name] if name in KEPT else inverted(bench, INVERTERS[name], prompt))


def seed_row(bench: Bench, name: str, guidance: float) -> Row:
    """The log's first attempt. An evaluation is a row: guidance between two equal prompts pays twice."""
    steps = bench.schedule.steps
    tried = [attempt(bench.model, bench.x_0[rows], bench.null[rows], guidance, steps) for rows in bench.calls()]
    x_t, back = (torch.cat(parts) for parts in zip(*tried, strict=True))
    return figures(bench, name, steps * (2 if guidance > 1 else 1), x_t, bench.psnr(back))


def start_row(bench: Bench, name: str, kept: Kept) -> Row:
    """Sampled from a state that was made of an inversion's x_T."""
    start, found = STARTS[name], kept[STARTS[name].of]
    level = bench.schedule.steps - start.below
    x = start.state(bench.x_0, found.states[-1], bench.schedule.thetas[level])
    recon = bench.psnr(sampled(bench, x, bench.rows(), level)[0])
    return figures(bench, name, found.evaluations, x, recon, level=level)


def grid_row(bench: Bench, name: str, kept: Kept) -> Row:
    """Inverted and sampled back on a grid that is not evenly spaced."""
    inverter, kind = GRIDS[name]
    on = bench.on(grid(bench, kind, kept))
    return plain_row(on, name, inverted(on, INVERTERS[inverter])) | {"timesteps": list(on.schedule.timesteps[1:])}


def grid(bench: Bench, kind: str, kept: Kept) -> Schedule:
    """By TRDI, or by the errors of DDIM inversion's steps on these clips: root mean square over all of them."""
    whole = bench.model.schedule(int(bench.model.pipe.scheduler.config.num_train_timesteps))
    if kind == "trdi":
        return grids.trdi(whole, bench.schedule.timesteps[1:])
    missed = candidates.residuals(bench.rows(), kept["ddim"].states, bench.schedule)
    return grids.by_error(whole, bench.schedule, [float(error.square().mean().sqrt()) for error in missed])


def bdia_row(bench: Bench, name: str) -> Row:
    """BDIA with its last two states, or its x_T alone."""
    velocity = bench.rows()
    states = list(candidates.bdia(velocity, bench.x_0, bench.schedule))
    cost = velocity.spent
    if name == "bdia_x_T_alone":
        return figures(bench, name, cost, states[-1], bench.psnr(sampled(bench, states[-1], velocity)[0]))
    back = candidates.bdia_sampled(velocity, states[-1], states[-2], bench.schedule)
    exact = {"exact": True, "stored_bytes": candidates.bytes_of(states[-2])}
    return figures(bench, name, cost, states[-1], bench.psnr(back), **exact)


def residuals_row(bench: Bench, name: str, kept: Kept) -> Row:
    """DDIM inversion with stored residuals."""
    velocity, ddim = bench.rows(), kept["ddim"]
    missed = candidates.residuals(velocity, ddim.states, bench.schedule)
    cost = ddim.evaluations + velocity.spent
    back = candidates.sampled_with(velocity, ddim.states[-1], missed, bench.schedule)
    exact = {"exact": True, "stored_bytes": candidates.bytes_of(*missed)}
    return figures(bench, name, cost, ddim.states[-1], bench.psnr(back), **exact)


def planned(bench: Bench, kept: Kept) -> dict[str, Callable[[], Row]]:
    """What measures each row, in the order of the table. diffusers' own loop has no place for a first frame."""
    guidances = {"diffusers_guidance_6": 6.0, "diffusers_guidance_1": 1.0} if bench.images is None else {}
    rows: dict[str, Callable[[], Row]] = {n: partial(seed_row, bench, n, scale) for n, scale in guidances.items()}
    for names, measure in ((INVERTERS, inverter_row), (STARTS, start_row), (GRIDS, grid_row)):
        rows |= {name: partial(measure, bench, name, kept) for name in names}
    rows |= {name: partial(bdia_row, bench, name) for name in ("bdia", "bdia_x_T_alone")}
    return rows | {"stored_residuals": partial(residuals_row, bench, "stored_residuals", kept)}


def with_gains(rows: list[Row]) -> list[Row]:
    """Each row with its mean gain over `ddim` and `fixed_point_5` and their paired 95 % intervals."""
    by_name = {row["inverter"]: np.array(row["by_clip"]) for row in rows}
    for row in rows:
        for other in ("ddim", "fixed_point_5"):
            gain = np.array(row["by_clip"]) - by_name[other]
            low, high = interval(gain)
            row |= {f"over_{other}": round(float(gain.mean()), 2)}
            row |= {f"over_{other}_low": round(low, 2), f"over_{other}_high": round(high, 2)}
    return rows


def study(
    bench: Bench,
    kept: Kept,
    say: Callable[[str], None] = lambda line: None,
    known: Mapping[str, Row] | None = None,
    keep: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """All rows. `known`: those that need not be measured again; `keep` gets each new one."""
    rows = []
    for name, measure in planned(bench, kept).items():
        if known and name in known:
            rows.append(known[name])
            continue
        rows.append(measure())
        say(told(rows[-1]))
        keep(rows[-1])
    return with_gains(rows)


def told(row: Row) -> str:
    return f"{row['inverter']}: {row['evaluations']} evaluations, {row['recon_db']} dB, std {row['x_T_std']}"


__all__ = ["Inverted", "Kept", "Row", "Rows", "inverted", "sampled", "study"]
