"""DDIM as a rotation: x_s = cos(θ_s - θ_t) · x_t + sin(θ_s - θ_t) · v(x_t, t). One formula for both directions.

Source: arXiv 2202.00512 (v-prediction, angular form of DDIM). All angles in radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

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


class Evaluated(NamedTuple):
    """A velocity that the model gave: at which angle, and for which state."""

    theta: float
    x: Tensor
    v: Tensor


def drift(before: Evaluated, now: Evaluated) -> Tensor:
    """The change of the velocity per radian between two levels, beyond what its rotation brings: 0 where clean estimate
    and noise stay as they are."""
    turned = now.theta - before.theta
    return (now.v - rotate(before.v, -before.x, turned)) / turned


def second_order_step(now: Evaluated, theta_s: float, before: Evaluated | None = None) -> Tensor:
    """A DDIM step to the angle θ_s, and what the drift since `before` adds to it; without one it is the plain step.

    With a constant drift d the path x'' = -x + d ends in (1 - cos δ) · d beyond the rotation by δ. Finite at zero SNR.
    Source: arXiv 2211.01095 (DPM-Solver++ 2M), in angle form.
    """
    plain = ddim_step(now.x, now.v, now.theta, theta_s)
    return plain if before is None else plain + (1 - math.cos(theta_s - now.theta)) * drift(before, now)


def sample(velocity: Velocity, x_t: Tensor, schedule: Schedule, first: int = 0) -> Iterator[Tensor]:
    """Denoises from the level that step `first` starts from; yields the state after each step, the clean one last."""
    for step in range(first, schedule.steps):
        level = schedule.level(step)
        v = velocity(x_t, schedule.timesteps[level])
        x_t = ddim_step(x_t, v, schedule.thetas[level], schedule.thetas[level - 1])
        yield x_t
