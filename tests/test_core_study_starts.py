"""K-RNR and rescaled noise: closed forms, and what sampling makes of them on Gaussian data, whose flow is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cogvideo_core.diffusion import ddim
from cogvideo_core.diffusion.schedule import schedule_from_config
from cogvideo_core.study import starts
from tests.test_core_study_inversion import CONFIG, MEAN, STD, Gaussian, clean, flow


def noise() -> Tensor:
    return torch.randn(clean().shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_k_rnr_by_hand() -> None:
    """cos θ = 0.6, sin θ = 0.8, x_0 = 1, ε = 10: 8.6 after one round, 7.48 after two."""
    theta, one = math.acos(0.6), torch.ones(1, 1, 1, 1, 1)
    assert starts.k_rnr(one, 10 * one, theta, 1).item() == pytest.approx(8.6)
    assert starts.k_rnr(one, 10 * one, theta, 2).item() == pytest.approx(7.48)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_k_rnr_is_its_closed_form(k: int) -> None:
    """cos θ · (1 - sin^k θ) / (1 - sin θ) · x_0 + sin^k θ · ε, the paper's equation 1 summed."""
    theta = schedule_from_config(CONFIG, 50).thetas[-2]
    c, s = math.cos(theta), math.sin(theta)
    expected = c * (1 - s**k) / (1 - s) * clean() + s**k * noise()
    assert torch.allclose(starts.k_rnr(clean(), noise(), theta, k), expected, atol=1e-12)


def sampled(x: Tensor, below: int, steps: int) -> Tensor:
    *_, back = ddim.sample(Gaussian(), x, schedule_from_config(CONFIG, steps), below)
    return back


@pytest.mark.parametrize("k", [1, 3, 6])
def test_what_k_rnr_is_sampled_to_on_gaussian_data(k: int) -> None:
    """From the true x_T the flow maps K-RNR's state to a known picture: the source with other contrast and mean.

    Sampled in 1000 steps from level 800, where the share of x_0 is large enough to be seen; rms within 1 %.
    """
    schedule, level = schedule_from_config(CONFIG, 1000), 800
    theta = schedule.thetas[level]
    c, s = math.cos(theta), math.sin(theta)
    start = starts.k_rnr(clean(), flow(clean(), schedule.thetas[-1]), theta, k)
    expected = MEAN + STD / math.sqrt(c**2 * STD**2 + s**2) * (start - c * MEAN)
    rms = (sampled(start, 1000 - level, 1000) - expected).square().mean().sqrt()
    off = (expected - clean()).square().mean().sqrt()
    assert float(rms) < 0.01 and float(off) > (k - 1) * 0.01


def test_rescaled_noise_has_deviation_1_and_loses_gaussian_data() -> None:
    """A row of the right amplitude is left alone; of half of it, it is doubled, and then sampled to the source."""
    half = 0.5 * flow(clean(), math.pi / 2)
    found = starts.rescaled(half)
    assert torch.allclose(found.std((1, 2, 3, 4), correction=0), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(starts.rescaled(found), found)
    assert not torch.allclose(sampled(half, 0, 200), clean(), atol=0.1)
    spread = float(clean().std(correction=0)) / STD  # the draw's own, of which rescaling knows nothing
    assert torch.allclose(sampled(found, 0, 1000), clean(), atol=0.1 + abs(spread - 1))


def test_adaptive_k_rnr_has_the_moments_of_its_index() -> None:
    """By row and channel mean and deviation are those of order 3, and the picture is that of order 10 up to them."""
    theta = schedule_from_config(CONFIG, 50).thetas[-4]
    adaptive = starts.adaptive_k_rnr(clean(), noise(), theta, 10)
    third, tenth = (starts.k_rnr(clean(), noise(), theta, k) for k in (3, 10))
    for moment in (torch.mean, torch.std):
        assert torch.allclose(moment(adaptive, (1, 3, 4)), moment(third, (1, 3, 4)))
    one, other = adaptive[0, :, 0].flatten(), tenth[0, :, 0].flatten()
    assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) == pytest.approx(1.0)
