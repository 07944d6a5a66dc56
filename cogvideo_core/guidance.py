"""Classifier-free guidance on velocities."""

from __future__ import annotations

from torch import Tensor


def is_guided(scale: float) -> bool:
    """At scale 1 the unguided half has no weight and need not be computed."""
    return scale != 1.0


def guide(v_uncond: Tensor, v_cond: Tensor, scale: float) -> Tensor:
    """v_uncond + scale · (v_cond - v_uncond). Source: arXiv 2207.12598."""
    return v_uncond + scale * (v_cond - v_uncond)
