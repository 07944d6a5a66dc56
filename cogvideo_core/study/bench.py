"""What a study measures on: clips as rows, the frozen held-out ones or any others, and statistics over them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.media.quality import psnr
from cogvideo_core.models.model import VideoModel
from cogvideo_core.shapes import world

STEPS, DRAWS = 50, 2000


@dataclass
class Rows:
    """velocity(x [R,f,C,h,w], t) of all clips with prompts [R,S,D]; `spent` counts evaluations a clip."""

    bench: Bench
    text: Tensor
    spent: int = 0

    def __call__(self, x: Tensor, t: int) -> Tensor:
        self.spent += 1
        return self.bench.velocity(x, t, self.text)


@dataclass(frozen=True)
class Bench:
    """R clips as latents [R,f,C,h,w], their captions and the empty prompt [R,S,D], and the schedule.

    frames: uint8 [R,F,H,W,3], as the model sees them. images: image latents [R,C,h,w] of an image-to-video model.
    at_once: how many rows go through the transformer in one call; one where each has its own image.
    """

    model: VideoModel
    x_0: Tensor = field(repr=False)
    source: Tensor = field(repr=False)
    null: Tensor = field(repr=False)
    schedule: Schedule = field(repr=False)
    frames: np.ndarray = field(repr=False)
    images: Tensor | None = field(default=None, repr=False)
    at_once: int = 1

    def rows(self, prompt: str = "source") -> Rows:
        return Rows(self, self.source if prompt == "source" else self.null)

    def on(self, schedule: Schedule) -> Bench:
        """The same clips on another grid of noise levels."""
        return replace(self, schedule=schedule)

    def first(self, clips: int) -> Bench:
        """The first so many of the clips."""
        parts = {name: getattr(self, name)[:clips] for name in ("x_0", "source", "null", "frames")}
        return replace(self, **parts, images=None if self.images is None else self.images[:clips])

    def calls(self) -> list[slice]:
        """The rows of each call of the transformer."""
        return [slice(first, first + self.at_once) for first in range(0, len(self.x_0), self.at_once)]

    def velocity(self, x: Tensor, t: int, text: Tensor) -> Tensor:
        """v [R,f,C,h,w] of all rows, in as many calls as `at_once` asks for."""
        parts = []
        for rows in self.calls():
            image = None if self.images is None else self.images[rows.start]
            parts.append(self.model.conditioned(image)(x[rows], t, text[rows]))
        return torch.cat(parts).to(x.device)

    def psnr(self, x: Tensor) -> np.ndarray:
        """dB of each row against the clean latents; the peak is the range of all of them. float64 [R]."""
        mse = (x.double() - self.x_0.double()).square().mean((1, 2, 3, 4))
        peak = float(self.x_0.max() - self.x_0.min())
        return (10 * torch.log10(peak**2 / mse.clamp_min(1e-20))).cpu().numpy()

    def pixel_psnr(self, x: Tensor) -> np.ndarray:
        """dB of each decoded row against the frames, in 8-bit pixels. float64 [R]."""
        return np.array([psnr(self.model.decode(row), frames) for row, frames in zip(x, self.frames, strict=True)])


def held_out(model: VideoModel, clips: int = 24, steps: int = STEPS) -> Bench:
    """The clips of the ShapesEdit bench, all of them in one call."""
    listed = itertools.groupby(world.bench_edits(clips), key=lambda edit: edit.clip)
    scenes = [next(group).scene for _, group in listed]
    frames = np.stack([world.render(scene) for scene in scenes])
    return bench_of(model, frames, [scene.combination.caption() for scene in scenes], steps, len(scenes))


def bench_of(
    model: VideoModel, frames: np.ndarray, captions: Sequence[str], steps: int = STEPS, rows: int = 1
) -> Bench:
    """Clips uint8 [R,F,H,W,3] with their captions, `rows` at a time."""
    x_0 = torch.stack([model.encode(clip) for clip in frames]).to(model.device)
    source = model.embed(captions)
    null = model.embed([""]).expand_as(source)
    images = torch.stack([model.encode_image(clip[0]) for clip in frames]) if model.image_to_video else None
    return Bench(model, x_0, source, null, model.schedule(steps), frames, images, rows if images is None else 1)


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
