"""Inverters that the study compares with those of `cogvideo_core.diffusion.inversion`; the pipeline uses none.

Each is a generator over rows [R,f,C,h,w] that yields N+1 states by level, the clean one first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from cogvideo_core.diffusion.ddim import Velocity, ddim_step, noised, rotate
from cogvideo_core.diffusion.inversion import arrived, seeded_noise, turns
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.study import starts


def explicit(velocity: Velocity, x_0: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """N evaluations: velocity of the departure point at its own timestep; at the clean end, at the first timestep."""
    x = x_0
    yield x
    for level, t, delta in turns(schedule):
        x = rotate(x, velocity(x, schedule.timesteps[level - 1] if level > 1 else t), delta)
        yield x


def scheduled(velocity: Velocity, x_0: Tensor, schedule: Schedule, iterations: Sequence[int]) -> Iterator[Tensor]:
    """Fixed-point iteration with its own count for each of the first levels; the last count holds for the rest.

    Spends evaluations where they matter: N + all iterations in total.
    """
    x_s = x_0
    yield x_s
    for level, t, delta in turns(schedule):
        x_t = rotate(x_s, velocity(x_s, t), delta)
        for _ in range(iterations[min(level, len(iterations)) - 1]):
            x_t = arrived(x_s, velocity(x_t, t), delta)
        x_s = x_t
        yield x_s


def forward_noised(velocity: Velocity, x_0: Tensor, schedule: Schedule, levels: int) -> Iterator[Tensor]:
    """Forward noise up to a level, DDIM inversion from there (TABA, arXiv 2410.23530). N - levels evaluations."""
    noise = seeded_noise(x_0.shape, 0).to(x_0)
    for theta in schedule.thetas[: levels + 1]:
        x = noised(x_0, noise, theta)
        yield x
    for _, t, delta in turns(schedule)[levels:]:
        x = rotate(x, velocity(x, t), delta)
        yield x


def k_rnr(velocity: Velocity, x_0: Tensor, schedule: Schedule, repeats: int = 3) -> Iterator[Tensor]:
    """ε ← cos θ · x_0 + sin θ · ε at the last level below the terminal one, `repeats` times; then that noise at every
    level (K-RNR, arXiv 2506.08004). A start rather than an inversion: no evaluations."""
    noise = starts.k_rnr(x_0, seeded_noise(x_0.shape, 0).to(x_0), schedule.thetas[-2], repeats)
    for theta in schedule.thetas:
        yield noised(x_0, noise, theta)


def bdia(velocity: Velocity, x_0: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """N evaluations; BDIA (arXiv 2307.10829, γ = 1) as rotations, finite at zero SNR.

    x_(j+1) = x_(j-1) - down(x_j) + up(x_j), where up and down are the DDIM steps from level j with one velocity. The
    first step is DDIM inversion's. `bdia_sampled` undoes it exactly, from the last two states.
    """
    thetas = schedule.thetas
    below, x = x_0, rotate(x_0, velocity(x_0, schedule.timesteps[1]), thetas[1] - thetas[0])
    yield below
    yield x
    for level in range(1, schedule.steps):
        v = velocity(x, schedule.timesteps[level])
        down, up = (ddim_step(x, v, thetas[level], thetas[level + way]) for way in (-1, 1))
        below, x = x, below - down + up
        yield x


def bdia_sampled(velocity: Velocity, x_n: Tensor, x_below: Tensor, schedule: Schedule) -> Tensor:
    """The clean latents from the states at levels N and N - 1; N - 1 evaluations."""
    thetas, above, x = schedule.thetas, x_n, x_below
    for level in range(schedule.steps - 1, 0, -1):
        v = velocity(x, schedule.timesteps[level])
        down, up = (ddim_step(x, v, thetas[level], thetas[level + way]) for way in (-1, 1))
        above, x = x, above - up + down
    return x


def residuals(velocity: Velocity, states: Sequence[Tensor], schedule: Schedule) -> list[Tensor]:
    """By level from 1, the error of the sampling step from each state to the one below (Direct Inversion, arXiv
    2310.01506). N evaluations."""
    return [
        states[level - 1] - rotate(states[level], velocity(states[level], t), -delta)
        for level, t, delta in turns(schedule)
    ]


def sampled_with(velocity: Velocity, x: Tensor, missed: Sequence[Tensor], schedule: Schedule) -> Tensor:
    """DDIM sampling that adds each level's stored residual; N evaluations."""
    for level, t, delta in reversed(turns(schedule)):
        x = rotate(x, velocity(x, t), -delta) + missed[level - 1]
    return x


def solved_first(velocity: Velocity, x_0: Tensor, schedule: Schedule, iterations: int = 15) -> Iterator[Tensor]:
    """The first level solved, DDIM inversion on all others."""
    return scheduled(velocity, x_0, schedule, [iterations, 0])


def bytes_of(*tensors: Tensor) -> int:
    """Bytes of one row of each."""
    return sum(math.prod(x.shape[1:]) * x.element_size() for x in tensors)
