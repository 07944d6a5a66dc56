"""Inverters: from clean latents up the noise levels, one state a level.

A sampling step goes from level j+1 to level j with the velocity found at j+1. Going up, that velocity is the one at the
point we want to reach, so the step is implicit. DDIM inversion takes the velocity at the departure point instead;
fixed-point iteration (AIDI, arXiv 2309.04907; ReNoise, arXiv 2403.14602) solves the equation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cogvideo_core.ddim import Velocity, ddim_step, noised
from cogvideo_core.errors import BadSpec
from cogvideo_core.schedule import Schedule


def ddim_inversion(velocity: Velocity, x_0: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """N evaluations. Yields N+1 states by level: x_0 first, the noisiest last."""
    return fixed_point_inversion(velocity, x_0, schedule, iterations=0)


def fixed_point_inversion(velocity: Velocity, x_0: Tensor, schedule: Schedule, iterations: int) -> Iterator[Tensor]:
    """N · (1 + iterations) evaluations. Converges to the state from which the sampling step leads back to x_s exactly.

    The step from t down to s is x_s = cos δ · x_t - sin δ · v(x_t, t) with δ = θ_t - θ_s > 0, so the sought x_t is the
    fixed point of x_t ← (x_s + sin δ · v(x_t, t)) / cos δ, begun at DDIM inversion's answer.
    """
    x_s = x_0
    yield x_s
    for level in range(1, schedule.steps + 1):
        theta_s, theta_t, t = schedule.thetas[level - 1], schedule.thetas[level], schedule.timesteps[level]
        delta = theta_t - theta_s
        if iterations and math.cos(delta) < 0.1:
            raise BadSpec(f"field steps: {schedule.steps} is too few for the fixed_point inverter; use 4 or more")
        x_t = ddim_step(x_s, velocity(x_s, t), theta_s, theta_t)
        for _ in range(iterations):
            x_t = (x_s + math.sin(delta) * velocity(x_t, t)) / math.cos(delta)
        x_s = x_t
        yield x_s


def noised_source(x_0: Tensor, schedule: Schedule, seed: int = 0) -> Iterator[Tensor]:
    """No evaluations: the clean latents under one fixed noise at every level, as the reference in DiTFlow."""
    noise = seeded_noise(x_0.shape, seed).to(x_0)
    for theta in schedule.thetas:
        yield noised(x_0, noise, theta)


def invert(velocity: Velocity, x_0: Tensor, schedule: Schedule, method: str, iterations: int = 3) -> Iterator[Tensor]:
    """The inverter named in `InversionSpec.method`; states by level, index 0 = clean."""
    if method == "fixed_point":
        return fixed_point_inversion(velocity, x_0, schedule, iterations)
    if method == "ddim":
        return ddim_inversion(velocity, x_0, schedule)
    if method == "none":
        return noised_source(x_0, schedule)
    raise BadSpec(f"field method: {method!r} is no inverter; use fixed_point, ddim or none")


def evaluations(method: str, steps: int, iterations: int) -> int:
    """Rows through the transformer that an inversion costs."""
    return {"fixed_point": steps * (1 + iterations), "ddim": steps, "none": 0}[method]


def seeded_noise(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float32 on the CPU that depends on shape and seed alone: the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
