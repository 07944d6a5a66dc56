"""Grids of noise levels that are not evenly spaced: by TRDI, and by the error that was measured.

A grid is a `Schedule` on chosen training timesteps, ascending; the terminal one stays, because sampling begins there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cogvideo_core.diffusion.schedule import CLEAN, Schedule


def on_timesteps(whole: Schedule, timesteps: Sequence[int]) -> Schedule:
    """The grid of the clean end and these timesteps. `whole`: the schedule of all training timesteps."""
    return Schedule((CLEAN, *timesteps), (whole.thetas[0], *(whole.thetas[t + 1] for t in timesteps)))


def deviation(whole: Schedule, t: int, s: int) -> float:
    """TRDI's scaling coefficient of the inversion's error in one step from timestep s up to t; s = CLEAN: from there.

    c(t, t - s) = √ᾱ_t · (ψ(ᾱ_(t-1)) - ψ(ᾱ_s)) with ψ(ᾱ) = √(1/ᾱ - 1): in angles cos θ_t · (tan θ_(t-1) - tan θ_s),
    which is 0 at zero SNR, whatever comes before. Source: arXiv 2606.15389, 3.2.
    """
    return math.cos(whole.thetas[t + 1]) * (math.tan(whole.thetas[t]) - math.tan(whole.thetas[s + 1]))


def stretched(timesteps: Sequence[int], gamma: float) -> list[int]:
    """Evenly spaced timesteps moved towards the clean end by gamma > 1, both ends kept (arXiv 2606.15389, 3.3)."""
    first, last, steps = timesteps[0], timesteps[-1], len(timesteps) - 1
    return [int(first + (last - first) * (k / steps) ** gamma) for k in range(len(timesteps))]


def rescheduled(whole: Schedule, timesteps: Sequence[int], window: int) -> list[int]:
    """Each timestep moved by at most `window`, so that the sum of all steps' deviations is least: dynamic programming.

    E[k, t] = min over h in t_(k-1) ± window of E[k-1, h] + c(t, t - h) (arXiv 2606.15389, 3.4). Unlike there, the last
    timestep stays.
    """
    best: dict[int, tuple[float, list[int]]] = {CLEAN: (0.0, [])}
    for near in timesteps:
        reach = 0 if near == timesteps[-1] else window
        found = {}
        for t in range(max(near - reach, 0), near + reach + 1):
            costs = [(cost + deviation(whole, t, s), path) for s, (cost, path) in best.items() if t - s > 1]
            if costs:
                cost, path = min(costs)
                found[t] = (cost, [*path, t])
        best = found
    return min(best.values())[1]


def trdi(whole: Schedule, timesteps: Sequence[int], gamma: float = 1.05, window: int = 8) -> Schedule:
    """Timestep Rescheduling in Diffusion Inversion with the parameters of its SDXL runs of 50 steps."""
    return on_timesteps(whole, rescheduled(whole, stretched(timesteps, gamma), window))


def by_error(whole: Schedule, schedule: Schedule, errors: Sequence[float]) -> Schedule:
    """As many steps, placed so that each would make the same error.

    errors: of each step of `schedule`, from the clean end up. An error grows with the square of its step, so the
    density of steps is the root of it: the new levels divide the sum of the roots into equal parts.
    """
    edges = np.array(schedule.timesteps, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(np.sqrt(np.asarray(errors, dtype=np.float64)))])
    steps = schedule.steps
    wanted = np.interp(sums[-1] * np.arange(1, steps + 1) / steps, sums, edges).round().astype(int)
    ascending: list[int] = []
    for index, t in enumerate(wanted):  # distinct, with room for those that follow
        least, most = (ascending[-1] + 1 if ascending else 0), schedule.timesteps[-1] - (steps - 1 - index)
        ascending.append(int(min(max(t, least), most)))
    return on_timesteps(whole, ascending)
