"""DDIM as a rotation: x_s = cos(θ_s - θ_t) · x_t + sin(θ_s - θ_t) · v(x_t, t). One formula for both directions.

Source: arXiv 2202.00512 (v-prediction, angular form of DDIM). All angles in radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor

from cogvideo_core.diffusion.schedule import Schedule

Velocity = Callable[[Tensor, int], Tensor]
"""velocity(x_t, t) -> v, of the shape of x_t."""


def rotate(x_t: Tensor, v: Tensor, angle: float) -> Tensor:
    """x_t turned by `angle` towards v. Positive angles lead to more noise."""
    return math.cos(angle) * x_t + math.sin(angle) * v


def ddim_step(x_t: Tensor, v: Tensor, theta_t: float, theta_s: float) -> Tensor:
    """Steps from level t to s, either way."""
    return rotate(x_t, v, theta_s - theta_t)


def pred_x0(x_t: Tensor, v: Tensor, theta_t: float) -> Tensor:
    """The clean estimate cos θ · x_t - sin θ · v."""
    return rotate(x_t, v, -theta_t)


def x0_between(x_t: Tensor, x_s: Tensor, theta_t: float, theta_s: float) -> Tensor:
    """The clean estimate that a step from level t to s followed, of the two states alone; the levels must differ."""
    return (math.sin(theta_s) * x_t - math.sin(theta_t) * x_s) / math.sin(theta_s - theta_t)


def noised(x_0: Tensor, noise: Tensor, theta_t: float) -> Tensor:
    """x_t = cos θ · x_0 + sin θ · ε."""
    return rotate(x_0, noise, theta_t)


def sample(velocity: Velocity, x_t: Tensor, schedule: Schedule, first: int = 0) -> Iterator[Tensor]:
    """Denoises from the level that step `first` starts from; yields the state after each step, the clean one last."""
    for step in range(first, schedule.steps):
        level = schedule.level(step)
        v = velocity(x_t, schedule.timesteps[level])
        x_t = ddim_step(x_t, v, schedule.thetas[level], schedule.thetas[level - 1])
        yield x_t
