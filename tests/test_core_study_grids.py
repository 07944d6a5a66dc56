"""Grids that are not evenly spaced, against published formulas, brute force and hand-worked numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cogvideo_core.diffusion import ddim, inversion
from cogvideo_core.diffusion.schedule import CLEAN, Schedule, schedule_from_config
from cogvideo_core.study import candidates, grids
from tests.test_core_study_inversion import CONFIG, Gaussian, clean

WHOLE = schedule_from_config(CONFIG, 1000)


def test_a_grid_has_the_angles_of_its_timesteps() -> None:
    """Even timesteps give back the engine's own schedule."""
    even = schedule_from_config(CONFIG, 50)
    assert grids.on_timesteps(WHOLE, even.timesteps[1:]) == even


def test_the_deviation_is_the_published_one() -> None:
    """√ᾱ_t · |√(1/ᾱ_(t-1) - 1) - √(1/ᾱ_s - 1)| from the scheduler's ᾱ; 0 for one timestep and at zero SNR."""
    alphas = np.cos(WHOLE.thetas[1:]) ** 2

    def psi(t: int) -> float:
        return math.sqrt(1 / alphas[t] - 1)

    for t, s in ((39, 19), (500, 480), (998, 900)):
        assert grids.deviation(WHOLE, t, s) == pytest.approx(math.sqrt(alphas[t]) * (psi(t - 1) - psi(s)), rel=1e-6)
    assert grids.deviation(WHOLE, 20, 19) == 0.0 and grids.deviation(WHOLE, 999, 500) < 1e-12
    assert grids.deviation(WHOLE, 39, 19) > grids.deviation(WHOLE, 539, 519)  # larger near the clean end


def test_stretching_keeps_both_ends() -> None:
    """(k / K)^γ of the range, by hand: the middle of 0, 10, 20 moves to 5 for γ = 2; γ = 1 changes nothing."""
    assert grids.stretched([0, 10, 20], 2.0) == [0, 5, 20]
    assert grids.stretched([19, 39, 59], 1.0) == [19, 39, 59]


def cost(timesteps: tuple[int, ...]) -> float:
    return sum(grids.deviation(WHOLE, t, s) for s, t in itertools.pairwise((CLEAN, *timesteps)))


def test_dynamic_programming_finds_what_trying_all_finds() -> None:
    """Four timesteps, each moved by at most 3: the least sum of deviations of all 7 · 7 · 7 choices."""
    near = [19, 39, 59, 999]
    choices = itertools.product(*(range(t - 3, t + 4) for t in near[:3]))
    best = min(((*choice, 999) for choice in choices), key=cost)
    assert grids.rescheduled(WHOLE, near, 3) == list(best) != near


def test_trdi_keeps_the_number_of_steps_and_the_noisy_end() -> None:
    """50 ascending timesteps from there up to zero SNR, of less deviation than even ones and than stretching alone."""
    even = schedule_from_config(CONFIG, 50).timesteps[1:]
    found = grids.trdi(WHOLE, even).timesteps[1:]
    assert len(found) == 50 and list(found) == sorted(set(found)) and found[-1] == 999
    assert cost(found) < cost(tuple(grids.stretched(even, 1.05))) and cost(found) < cost(even)


def test_steps_by_error_by_hand() -> None:
    """Errors 16, 1, 1 have the roots 4, 1, 1: the first third ends halfway up the first step, the second at its end.

    Equal errors leave the grid as it is.
    """
    schedule = Schedule((CLEAN, 9, 19, 29), tuple(WHOLE.thetas[t + 1] for t in (CLEAN, 9, 19, 29)))
    assert grids.by_error(WHOLE, schedule, [16, 1, 1]).timesteps == (CLEAN, 4, 9, 29)
    assert grids.by_error(WHOLE, schedule, [2, 2, 2]) == schedule


def test_steps_by_error_stay_apart_and_reach_the_end() -> None:
    """However large one error, timesteps ascend from 0 or above to the old terminal one."""
    schedule = schedule_from_config(CONFIG, 20)
    for place in (0, 10, 19):
        errors = [1e12 if step == place else 1e-12 for step in range(20)]
        found = grids.by_error(WHOLE, schedule, errors).timesteps[1:]
        assert list(found) == sorted(set(found)) and found[0] >= 0 and found[-1] == 999 and len(found) == 20


def missed(schedule: Schedule) -> float:
    """Root mean square of what DDIM inversion does not bring back on Gaussian data."""
    *_, x_t = inversion.ddim_inversion(Gaussian(), clean(), schedule)
    *_, back = ddim.sample(Gaussian(), x_t, schedule)
    return float((back - clean()).square().mean().sqrt())


def test_steps_by_error_reconstruct_better_on_gaussian_data() -> None:
    """Placed by the errors of an even grid's own steps, as many steps miss less."""
    even = schedule_from_config(CONFIG, 50)
    states = list(inversion.ddim_inversion(Gaussian(), clean(), even))
    errors = [float(e.square().mean().sqrt()) for e in candidates.residuals(Gaussian(), states, even)]
    assert missed(grids.by_error(WHOLE, even, errors)) < 0.9 * missed(even)
    assert torch.isfinite(torch.tensor(errors)).all()
