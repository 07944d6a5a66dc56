"""Where sampling may start instead of at an inversion's own x_T: K-RNR of inverted noise, and x_T rescaled.

Rows are [R,f,C,h,w]; each row is treated on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from cogvideo_core.diffusion.ddim import noised

ROW, CHANNEL = (1, 2, 3, 4), (1, 3, 4)  # the axes that are one row; one channel of one row


def k_rnr(x_0: Tensor, noise: Tensor, theta: float, repeats: int) -> Tensor:
    """ε ← cos θ · x_0 + sin θ · ε, `repeats` times: K-RNR (arXiv 2506.08004, eq. 1), a state of the level of θ.

    In closed form cos θ · (1 - sin^k θ) / (1 - sin θ) · x_0 + sin^k θ · ε: near the noisy end about k times the share
    of x_0 that belongs to the level.
    """
    for _ in range(repeats):
        noise = noised(x_0, noise, theta)
    return noise


def adaptive_k_rnr(x_0: Tensor, noise: Tensor, theta: float, repeats: int, index: int = 3) -> Tensor:
    """K-RNR of order `repeats` with mean and deviation of order `index`, by row and channel (AdaIN; the same, 4.2)."""
    return like(k_rnr(x_0, noise, theta, repeats), k_rnr(x_0, noise, theta, index))


def like(x: Tensor, other: Tensor) -> Tensor:
    """x with the mean and standard deviation of `other`, by row and channel."""
    mean, std = (found(x, CHANNEL) for found in (average, deviation))
    return (x - mean) / std * deviation(other, CHANNEL) + average(other, CHANNEL)


def rescaled(x: Tensor) -> Tensor:
    """x divided by its standard deviation, row by row; the mean moves with it."""
    return x / deviation(x, ROW)


def average(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.mean(dims, keepdim=True)


def deviation(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.std(dims, keepdim=True, correction=0).clamp_min(1e-6)


class Start(NamedTuple):
    """Of which inversion; how many levels below the terminal one; the state from x_0, its x_T and the angle there."""

    of: str
    below: int
    state: Callable[[Tensor, Tensor, float], Tensor]


def of_order(repeats: int) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda x_0, noise, theta: k_rnr(x_0, noise, theta, repeats)


STARTS: dict[str, Start] = {
    "ddim_rescaled": Start("ddim", 0, lambda x_0, noise, theta: rescaled(noise)),
    "multistep_15_rescaled": Start("multistep_15", 0, lambda x_0, noise, theta: rescaled(noise)),
    "k_rnr_inverted_1": Start("ddim", 1, of_order(1)),
    "k_rnr_inverted_2": Start("ddim", 1, of_order(2)),
    "k_rnr_inverted_3": Start("ddim", 1, of_order(3)),
    "k_rnr_inverted_6": Start("ddim", 1, of_order(6)),
    "k_rnr_inverted_10_adaptive": Start("ddim", 1, lambda x_0, noise, theta: adaptive_k_rnr(x_0, noise, theta, 10)),
    "k_rnr_solved_3": Start("multistep_15", 1, of_order(3)),
}
