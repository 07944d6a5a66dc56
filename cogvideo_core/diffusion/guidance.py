"""Classifier-free guidance on velocities: when it is on, how strong, and what keeps it from over-saturating."""

from __future__ import annotations

import math

from torch import Tensor

from cogvideo_core.diffusion.ddim import pred_x0
from cogvideo_core.settings.specs import RecipeSpec


def window(start: float, end: float, count: int) -> range:
    """The indices out of `count` between the fractions [start, end)."""
    return range(round(start * count), round(end * count))


def guided_steps(recipe: RecipeSpec, steps: int) -> range:
    """The steps that compute unguided rows; at scale 1 they would have no weight. Source: arXiv 2404.07724."""
    if recipe.guidance_scale == 1.0:
        return range(0)
    return window(recipe.guidance_start, recipe.guidance_end, steps)


def scale_at(recipe: RecipeSpec, step: int, steps: int) -> float:
    """The guidance scale of a step: constant, or rising from 1 along (1 - cos(π p⁵)) / 2, p = step / (steps - 1).

    The curve is what `use_dynamic_cfg` of diffusers means; there it mixes a timestep with a step count and jumps.
    """
    if recipe.guidance_schedule == "constant":
        return recipe.guidance_scale
    progress = step / max(steps - 1, 1)
    return 1 + (recipe.guidance_scale - 1) * (1 - math.cos(math.pi * progress**5)) / 2


def weight_at(recipe: RecipeSpec, step: int, steps: range) -> float:
    """The reference's weight at a step of its window `steps`: constant, or falling as a quarter of a cosine."""
    if recipe.reference_schedule == "constant":
        return recipe.reference_weight
    progress = (step - steps.start) / len(steps)
    return recipe.reference_weight * math.cos(math.pi / 2 * progress)


def guide(v_uncond: Tensor, v_cond: Tensor, scale: float) -> Tensor:
    """v_uncond + scale · (v_cond - v_uncond), rows [E,...]. Source: arXiv 2207.12598."""
    return v_uncond + scale * (v_cond - v_uncond)


def guide_apart(v_uncond: Tensor, v_cond: Tensor, x0_cond: Tensor, scale: float, parallel: float) -> Tensor:
    """Guidance whose part parallel to the clean estimate, which saturates, is scaled by `parallel`; 1 is `guide`.

    Velocities differ by a multiple of the clean estimates' difference, so projecting one projects the other.
    Source: arXiv 2410.02416 (APG), without its momentum and norm threshold.
    """
    difference = v_cond - v_uncond
    dims = tuple(range(1, difference.ndim))
    along = (difference * x0_cond).sum(dims, keepdim=True) / x0_cond.square().sum(dims, keepdim=True).clamp_min(1e-12)
    return v_cond + (scale - 1) * (difference - (1 - parallel) * along * x0_cond)


def rescaled(v: Tensor, v_cond: Tensor, amount: float) -> Tensor:
    """v drawn towards the standard deviation of its prompted half, row by row. Source: arXiv 2305.08891, 3.4."""
    dims = tuple(range(1, v.ndim))
    ratio = v_cond.std(dims, keepdim=True) / v.std(dims, keepdim=True).clamp_min(1e-12)
    return v * (amount * ratio + 1 - amount)


def with_statistics(v: Tensor, x: Tensor, theta: float, source: Tensor) -> Tensor:
    """v [E,f,C,h,w] whose clean estimate has the mean and standard deviation of the source [f,C,h,w], by channel.

    The estimate, cos θ · x_t - sin θ · v, moves by d when v moves by -d / sin θ.
    """
    dims = (-4, -2, -1)
    clean = pred_x0(x, v, theta)
    mean, std = clean.mean(dims, keepdim=True), clean.std(dims, keepdim=True).clamp_min(1e-6)
    matched = (clean - mean) / std * source.std(dims, keepdim=True) + source.mean(dims, keepdim=True)
    return v - (matched - clean) / math.sin(theta)
