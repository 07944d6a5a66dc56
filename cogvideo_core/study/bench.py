"""What a study measures on: the frozen held-out clips as rows of one call, and statistics over them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.models.model import VideoModel
from cogvideo_core.shapes import world

STEPS, DRAWS = 50, 2000


@dataclass
class Rows:
    """velocity(x [R,f,C,h,w], t) of all clips with their prompts [R,S,D]; `spent` counts evaluations a clip."""

    model: VideoModel
    text: Tensor
    spent: int = 0

    def __call__(self, x: Tensor, t: int) -> Tensor:
        self.spent += 1
        return self.model.velocity(x, t, self.text).to(x.device)


@dataclass(frozen=True)
class Bench:
    """R held-out clips as latents [R,f,C,h,w], their captions and the empty prompt [R,S,D], and the schedule."""

    model: VideoModel
    x_0: Tensor = field(repr=False)
    source: Tensor = field(repr=False)
    null: Tensor = field(repr=False)
    schedule: Schedule = field(repr=False)

    def rows(self, prompt: str = "source") -> Rows:
        return Rows(self.model, self.source if prompt == "source" else self.null)

    def psnr(self, x: Tensor) -> np.ndarray:
        """dB of each row against the clean latents; the peak is the range of all of them. float64 [R]."""
        mse = (x.double() - self.x_0.double()).square().mean((1, 2, 3, 4))
        peak = float(self.x_0.max() - self.x_0.min())
        return (10 * torch.log10(peak**2 / mse.clamp_min(1e-20))).cpu().numpy()


def held_out(model: VideoModel, clips: int = 24, steps: int = STEPS) -> Bench:
    """The clips of the ShapesEdit bench."""
    listed = itertools.groupby(world.bench_edits(clips), key=lambda edit: edit.clip)
    scenes = [next(group).scene for _, group in listed]
    x_0 = torch.stack([model.encode(world.render(scene)) for scene in scenes])
    source = model.embed([scene.combination.caption() for scene in scenes])
    null = model.embed([""]).expand_as(source)
    return Bench(model, x_0.to(model.device), source, null, model.schedule(steps))


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over clips. Give differences for a paired interval."""
    rng, found = np.random.default_rng(0), np.asarray(values)
    means = found[rng.integers(len(found), size=(DRAWS, len(found)))].mean(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def noise_statistics(x: Tensor) -> dict[str, float]:
    """How much rows look like standard normal noise, whose figures are 1, 1, 1, 0, 0.

    Standard deviation; mean power of spatial frequencies below and above a quarter of the sampling rate; excess
    kurtosis; correlation of horizontal neighbours.
    """
    x = x.double()
    power = torch.fft.fft2(x, norm="ortho").abs().square()
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64, device=x.device) for n in x.shape[-2:])
    low = (fy[:, None].square() + fx.square()).sqrt() < 0.25
    centred = x - x.mean()
    variance = centred.square().mean()
    return {
        "x_T_std": float(variance.sqrt()),
        "x_T_low": float(power[..., low].mean()),
        "x_T_high": float(power[..., ~low].mean()),
        "x_T_kurtosis": float(centred.pow(4).mean() / variance.square() - 3),
        "x_T_neighbour": float((centred[..., 1:] * centred[..., :-1]).mean() / variance),
    }
