"""Masks without another model: where the predictions for source and target prompt differ along the trajectory.

Source: arXiv 2210.11427 (DiffEdit). There the noised clip is predicted anew; here the stored states are there already,
so that one pass at each of two levels is enough: a row for the source prompt, and one for each target prompt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from cogvideo_core.diffusion.editing import RowVelocity, Trajectory
from cogvideo_core.diffusion.schedule import Schedule

VERSION = 2  # raised when the same predictions give another mask
AT = (0.4, 0.65)  # of the levels: lower ones show outlines and texture, higher ones colour and place
FULL = 0.94  # quantile of a map that counts as a full difference; the median counts as none
SURE = 0.8  # a region of which no cell differs so much is dropped
SHARED = 0.8  # weight of what all prompts of a clip show together, against each prompt's own
NEIGHBOUR = 0.044  # weight of the latent frames before and after


def levels(steps: int) -> list[int]:
    """The levels that are looked at, each once, the noisiest first."""
    return sorted({max(1, round(share * steps)) for share in AT}, reverse=True)


def differences(
    velocity: RowVelocity, trajectory: Trajectory, schedule: Schedule, text: Tensor, at_once: int = 16
) -> Tensor:
    """How far the clean estimates for N target prompts are from that for the source prompt: [N,f,h,w], 0 for not.

    text: [1+N,S,D], the source prompt's first. N + 1 evaluations a level, `at_once` in a call.
    """
    total = torch.zeros(())
    for level in levels(schedule.steps):
        x = trajectory(level)
        t = schedule.timesteps[level]
        v = torch.cat([velocity(x.expand(len(part), *x.shape), t, part, None) for part in text.split(at_once)])
        apart = math.sin(schedule.thetas[level]) * (v[1:] - v[:1])
        total = total + torch.stack([scaled(one) for one in apart.square().sum(2).sqrt()])
    return total / len(levels(schedule.steps))


def scaled(difference: Tensor) -> Tensor:
    """A map [f,h,w] with its median as 0 and its `FULL` quantile as 1."""
    median, full = difference.median(), torch.quantile(difference.flatten(), FULL)
    return ((difference - median) / (full - median).clamp_min(1e-9)).clamp_min(0)


def found(differing: Tensor, threshold: float) -> Tensor:
    """Masks bool [N,f,h,w] of maps [N,f,h,w]: smoothed in time, thresholded with hysteresis, holes closed.

    A cell needs both what its own prompt shows and what all prompts of the clip show.
    """
    together = differing ** (1 - SHARED) * differing.mean(0, keepdim=True) ** SHARED
    smooth = smoothed(together)
    return closed(reached(smooth > threshold, smooth > SURE))


def smoothed(maps: Tensor) -> Tensor:
    """[N,f,h,w] averaged a little with the latent frames before and after."""
    before, after = maps[:, [0, *range(maps.shape[1] - 1)]], maps[:, [*range(1, maps.shape[1]), -1]]
    return (1 - 2 * NEIGHBOUR) * maps + NEIGHBOUR * (before + after)


def reached(wide: Tensor, sure: Tensor) -> Tensor:
    """The regions of `wide` [N,f,h,w] that hold a cell of `sure`; neighbours in space, time and corners are joined."""
    now = sure & wide
    while True:
        more = max_pool3d(now[:, None].float(), 3, 1, 1)[:, 0].bool() & wide
        if torch.equal(more, now):
            return now
        now = more


def closed(mask: Tensor) -> Tensor:
    """bool [N,f,h,w] with gaps of up to two cells filled, frame by frame."""
    wide = pad(mask.float(), (2, 2, 2, 2))[:, None]
    grown = max_pool3d(wide, (1, 3, 3), 1, (0, 1, 1))
    shrunk = 1 - max_pool3d(1 - grown, (1, 3, 3), 1, (0, 1, 1))
    return shrunk[:, 0, :, 2:-2, 2:-2].bool()
