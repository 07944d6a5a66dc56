"""Clips of any length through the VAE as one sequence: what diffusers gives for the whole, with a part's memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogvideo_core.models.memory import peak_bytes
from cogvideo_core.models.model import VideoModel
from cogvideo_core.models.vae_sequence import parts
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import build

VARIANTS = ["5b", "1.5-5b"]


def noise(frames: int, size: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), np.uint8)


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return VideoModel(build.build_pipeline(request.param), ModelSpec())


@pytest.fixture
def tiled() -> VideoModel:
    model = VideoModel(build.build_pipeline("5b"), ModelSpec())
    model.pipe.vae.enable_tiling(24, 24, 1 / 6, 1 / 6)
    return model


def check(model: VideoModel, frames: np.ndarray) -> None:
    """Latents and pixels of a clip by parts against diffusers' own calls."""
    with torch.inference_mode():
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
        latents = model.pipe.vae.encode(pixels).latent_dist.mode()
        decoded = model.pipe.vae.decode(latents).sample[0].permute(1, 2, 3, 0)
    found = model.encode_sequence(frames)
    assert torch.equal(found[: model.front_padding], found[model.front_padding :][: model.front_padding])
    plain = found[model.front_padding :] / model.vae_config.scaling_factor
    assert (plain - latents[0].transpose(0, 1)).abs().max() < 1e-4
    ours = np.concatenate(list(model.decode_sequence(found)))
    theirs = ((decoded + 1) * 127.5).clamp(0, 255).numpy()
    assert ours.shape == theirs.shape == frames.shape
    assert np.abs(ours - theirs).max() < 0.5 + 127.5 * 1e-4


@pytest.mark.parametrize("frames", [1, 9, 25])
def test_parts_equal_the_whole(model: VideoModel, frames: int) -> None:
    """Latents within 1e-4 and pixels but for rounding, for one window and for several."""
    check(model, noise(frames))


def test_tiles_equal_the_whole(tiled: VideoModel) -> None:
    """With tiles, each of which has caches of its own."""
    check(tiled, noise(25, 44))


def test_an_even_number_of_latent_frames_loses_none(model: VideoModel) -> None:
    """21 frames are 6 latent frames, and come back as 21: the first 17 as if the clip ended there."""
    latents = model.encode_sequence(noise(21))
    assert len(latents) == 6 + model.front_padding
    frames = np.concatenate(list(model.decode_sequence(latents)))
    assert len(frames) == 21
    before = np.concatenate(list(model.decode_sequence(latents[:-1])))
    assert np.array_equal(frames[:17], before)


def test_memory_stays_that_of_a_part(tiled: VideoModel) -> None:
    """Decoding 49 frames takes at most a tenth more than 25."""
    model = tiled
    model.pipe.vae.disable_tiling()

    def peak(frames: int) -> int:
        latents = model.encode_sequence(noise(frames))
        return peak_bytes(lambda: [part.shape for part in model.decode_sequence(latents)])

    assert peak(49) < 1.1 * peak(25)


def test_parts_are_those_of_diffusers() -> None:
    """Two latent frames at once, the odd one in the first part; less than that in one."""
    assert [(part.start, part.stop) for part in parts(7, 2)] == [(0, 3), (3, 5), (5, 7)]
    assert [(part.start, part.stop) for part in parts(1, 2)] == [(0, 1)]
    assert [(part.start, part.stop) for part in parts(13, 8)] == [(0, 13)]
    assert [(part.start, part.stop) for part in parts(16, 8)] == [(0, 8), (8, 16)]
