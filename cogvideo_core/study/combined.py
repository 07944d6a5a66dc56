"""Causes together, as people run them: invert with "" at guidance 1 in few steps, sample with a prompt at guidance 6.

Without any of them, with each alone and with all, once from DDIM inversion and once from the solved implicit step, so
that it shows how much the inverter still matters there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cogvideo_core.diffusion import inversion
from cogvideo_core.study.bench import Bench, interval
from cogvideo_core.study.causes import SOLVED, guided
from cogvideo_core.study.inversion import Inverter, inverted, sampled

Row = dict[str, Any]
GUIDANCE, SHARE_UP = 6.0, 0.6  # 30 steps up for 50 down, as K-RNR's own scripts have it
INVERTERS: dict[str, Inverter] = {"ddim": inversion.ddim_inversion, "solved": SOLVED}


class Mismatch(NamedTuple):
    """What differs between the way up and the way down."""

    guidance: bool  # 1 up, 6 against "" down
    prompt: bool  # "" up, the source prompt down
    grid: bool  # 30 steps up, 50 down

    def told(self, up: int, down: int) -> str:
        parts = {
            "guidance 6 down": self.guidance,
            '"" up, source prompt down': self.prompt,
            f"{up} steps up, {down} down": self.grid,
        }
        return "; ".join(name for name, is_there in parts.items() if is_there) or "none of them"


NONE = Mismatch(guidance=False, prompt=False, grid=False)
ALONE = (NONE._replace(grid=True), NONE._replace(prompt=True), NONE._replace(guidance=True))
MISMATCHES = (NONE, *ALONE, Mismatch(guidance=True, prompt=True, grid=True))


def steps_up(bench: Bench) -> int:
    return max(4, round(SHARE_UP * bench.schedule.steps))


def noise_of(bench: Bench, inverter: Inverter, mismatch: Mismatch) -> Tensor:
    """x_T [R,f,C,h,w] of an inversion with the mismatch's prompt and grid."""
    on = bench.on(bench.model.schedule(steps_up(bench))) if mismatch.grid else bench
    return inverted(on, inverter, "null" if mismatch.prompt else "source").states[-1]


def combinations(bench: Bench) -> Iterator[Row]:
    """A row for each of `MISMATCHES`: what both inverters' x_T are sampled back to, and the gain of the solved one."""
    noises: dict[tuple[str, bool, bool], Tensor] = {}
    for mismatch in MISMATCHES:
        found = {}
        for name, inverter in INVERTERS.items():
            key = (name, mismatch.prompt, mismatch.grid)
            if key not in noises:
                noises[key] = noise_of(bench, inverter, mismatch)
            velocity = guided(bench, GUIDANCE) if mismatch.guidance else bench.rows()
            found[name] = bench.psnr(sampled(bench, noises[key], velocity)[0])
        yield row_of(mismatch.told(steps_up(bench), bench.schedule.steps), found)


def row_of(what: str, found: Mapping[str, np.ndarray]) -> Row:
    """Means with their intervals, of each inverter and of the paired gain."""
    values = dict(found) | {"gain": found["solved"] - found["ddim"]}
    row: Row = {"what": what}
    for name, recon in values.items():
        low, high = interval(recon)
        row |= {name: round(float(recon.mean()), 2), f"{name}_low": round(low, 2), f"{name}_high": round(high, 2)}
    return row | {"by_clip": {name: [round(float(db), 2) for db in recon] for name, recon in found.items()}}


def combined(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    rows = []
    for row in combinations(bench):
        rows.append(row)
        say(f"{row['what']}: ddim {row['ddim']} dB, solved {row['solved']} dB")
    return rows


__all__ = ["Mismatch", "combined"]
