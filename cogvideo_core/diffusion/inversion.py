"""Inverters: from clean latents up the noise levels, one state a level.

A sampling step goes from level j+1 to level j with the velocity found at j+1. Going up, that velocity is the one at the
point we want to reach, so the step is implicit: x_t = (x_s + sin δ · v(x_t, t)) / cos δ with δ = θ_t - θ_s > 0. DDIM
inversion takes the velocity at the departure point instead; fixed-point iteration (AIDI, arXiv 2309.04907; ReNoise,
arXiv 2403.14602) solves the equation at every level; `multistep` solves it where nothing is known yet, on the first
level, and from there extrapolates from the levels below. docs/inversion.md compares them.

Latents are [f,C,h,w] or rows of them [R,f,C,h,w]; rows are independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cogvideo_core.diffusion.ddim import Velocity, ddim_step, noised, rotate
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import InversionSpec


def arrived(x_s: Tensor, v_t: Tensor, delta: float) -> Tensor:
    """The x_t from which the velocity v_t leads back to x_s: x_s = cos δ · x_t - sin δ · v_t solved for x_t."""
    return (x_s + math.sin(delta) * v_t) / math.cos(delta)


def turns(schedule: Schedule) -> list[tuple[int, int, float]]:
    """(level, its timestep, δ from the level below) of all levels but the clean one."""
    thetas = schedule.thetas
    return [(j, schedule.timesteps[j], thetas[j] - thetas[j - 1]) for j in range(1, schedule.steps + 1)]


def checked_turns(schedule: Schedule, method: str) -> list[tuple[int, int, float]]:
    """`turns`, all checked to stay below 90 degrees, where the implicit equation divides by zero."""
    found = turns(schedule)
    if min(math.cos(delta) for _, _, delta in found) < 0.1:
        raise BadSpec(f"field steps: {schedule.steps} is too few for the {method} inverter; use 4 or more")
    return found


def ddim_inversion(velocity: Velocity, x_0: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """N evaluations. Yields N+1 states by level: x_0 first, the noisiest last."""
    x = x_0
    yield x
    for level, t, _ in turns(schedule):
        x = ddim_step(x, velocity(x, t), schedule.thetas[level - 1], schedule.thetas[level])
        yield x


def fixed_point_inversion(velocity: Velocity, x_0: Tensor, schedule: Schedule, iterations: int) -> Iterator[Tensor]:
    """N · (1 + iterations) evaluations. Converges to the state from which the sampling step leads back to x_s exactly:
    the fixed point of x_t ← (x_s + sin δ · v(x_t, t)) / cos δ, begun at DDIM inversion's answer."""
    x_s = x_0
    yield x_s
    for _, t, delta in checked_turns(schedule, "fixed_point"):
        x_t = rotate(x_s, velocity(x_s, t), delta)
        for _ in range(iterations):
            x_t = arrived(x_s, velocity(x_t, t), delta)
        x_s = x_t
        yield x_s


def multistep_inversion(
    velocity: Velocity, x_0: Tensor, schedule: Schedule, iterations: int = 1, first_iterations: int = 15
) -> Iterator[Tensor]:
    """1 + first_iterations + (N - 1) · iterations evaluations: the fixed point at nearly the price of DDIM inversion.

    The first level off the clean latents is solved by accelerated fixed-point iteration. From there on v at the next
    level is extrapolated from the two levels below, as if clean estimate and noise kept their trend, so that one
    fixed-point iteration is enough; its velocity is used in turn for the next level. This is a predictor-corrector
    scheme (Adams; for sampling UniPC, arXiv 2302.04867) for the sampler's own implicit step, with the same limit as
    fixed-point iteration.
    """
    x_s, v_s, drift = x_0, x_0, torch.zeros_like(x_0)  # drift: of the velocity per radian, beyond its rotation
    yield x_0
    for level, t, delta in checked_turns(schedule, "multistep"):
        if level == 1:
            x_t, v_t = first_level(velocity, x_0, t, delta, first_iterations)
        else:
            steady = rotate(v_s, -x_s, delta)
            x_t = arrived(x_s, steady + delta * drift, delta)
            for _ in range(iterations):
                v_t = velocity(x_t, t)
                x_t = arrived(x_s, v_t, delta)
            drift = (v_t - steady) / delta
        x_s, v_s = x_t, v_t
        yield x_s


def first_level(velocity: Velocity, x_0: Tensor, t: int, delta: float, iterations: int) -> tuple[Tensor, Tensor]:
    """(x_t, the last velocity) after 1 + iterations evaluations with Anderson acceleration of depth 1, row by row.

    Anderson, J. ACM 12 (1965); the weight of the older point is held to -1 .. 2 against flat residuals.
    """
    v_t, before = velocity(x_0, t), None
    x_t = rotate(x_0, v_t, delta)
    for _ in range(iterations):
        v_t = velocity(x_t, t)
        image = arrived(x_0, v_t, delta)
        residual = image - x_t
        x_t = image
        if before is not None:
            x_t = image - anderson_weight(residual, residual - before[1]) * (image - before[0])
        before = image, residual
    return x_t, v_t


def anderson_weight(residual: Tensor, change: Tensor) -> Tensor:
    """The weight that minimises |residual - weight · change| in each row [..,f,C,h,w]."""
    own = tuple(range(max(residual.ndim - 4, 0), residual.ndim))
    product = (residual * change).sum(own, keepdim=True)
    return (product / change.square().sum(own, keepdim=True).clamp_min(1e-12)).clamp(-1, 2)


def noised_source(x_0: Tensor, schedule: Schedule, seed: int = 0) -> Iterator[Tensor]:
    """No evaluations: the clean latents under one fixed noise at every level, as the reference in DiTFlow."""
    noise = seeded_noise(x_0.shape, seed).to(x_0)
    for theta in schedule.thetas:
        yield noised(x_0, noise, theta)


def invert(velocity: Velocity, x_0: Tensor, schedule: Schedule, settings: InversionSpec) -> Iterator[Tensor]:
    """The inverter that the settings name; states by level, index 0 = clean."""
    if settings.method == "multistep":
        return multistep_inversion(velocity, x_0, schedule, settings.iterations, settings.first_iterations)
    if settings.method == "fixed_point":
        return fixed_point_inversion(velocity, x_0, schedule, settings.iterations)
    if settings.method == "ddim":
        return ddim_inversion(velocity, x_0, schedule)
    return noised_source(x_0, schedule)


def evaluations(settings: InversionSpec, highest: int | None = None) -> int:
    """How many transformer rows an inversion costs, up to its `highest` level; None: to the noisiest."""
    steps, iterations = settings.steps if highest is None else highest, settings.iterations
    if steps == 0:
        return 0
    return {
        "multistep": 1 + settings.first_iterations + (steps - 1) * iterations,
        "fixed_point": steps * (1 + iterations),
        "ddim": steps,
        "none": 0,
    }[settings.method]


def stronger(settings: InversionSpec) -> InversionSpec:
    """Settings to try if an inversion did not reconstruct: more iterations, or some if there were none."""
    if settings.method not in ("multistep", "fixed_point"):
        return settings.model_copy(update={"method": "multistep", "iterations": 1, "first_iterations": 15})
    more = {"iterations": 3 * settings.iterations, "first_iterations": 2 * settings.first_iterations}
    return settings.model_copy(update=more)


def seeded_noise(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float32 on the CPU that depends on shape and seed alone: the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
