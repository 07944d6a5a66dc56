"""Guidance: its interval, its strength by step, and the remedies against over-saturation."""

import pytest
import torch

from cogvideo_core.diffusion import guidance
from cogvideo_core.diffusion.ddim import pred_x0
from cogvideo_core.settings.specs import RecipeSpec


def halves(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    v_uncond, v_cond, x = (torch.randn(3, 2, 4, 5, 5, generator=rng, dtype=torch.float64) for _ in range(3))
    return v_uncond, v_cond, x


def test_scale_one_is_the_prompted_half_and_zero_the_other() -> None:
    """The two ends of the formula."""
    v_uncond, v_cond, _ = halves()
    assert torch.allclose(guidance.guide(v_uncond, v_cond, 1.0), v_cond)
    assert torch.equal(guidance.guide(v_uncond, v_cond, 0.0), v_uncond)


def test_guided_steps_are_the_interval() -> None:
    """The first 60 % by default, the interval if one is given, none at scale 1."""
    assert guidance.guided_steps(RecipeSpec(), 10) == range(6)
    assert guidance.guided_steps(RecipeSpec(guidance_end=1.0), 10) == range(10)
    assert guidance.guided_steps(RecipeSpec(guidance_start=0.2, guidance_end=0.5), 10) == range(2, 5)
    assert len(guidance.guided_steps(RecipeSpec(guidance_scale=1.0), 10)) == 0


def test_rising_guidance_rises_from_one_to_the_scale() -> None:
    """Smoothly and without a step back, whatever the number of steps."""
    recipe = RecipeSpec(guidance_schedule="rising", guidance_scale=6.0)
    for steps in (2, 10, 50):
        scales = [guidance.scale_at(recipe, step, steps) for step in range(steps)]
        assert scales == sorted(scales) and scales[0] == 1.0 and scales[-1] == pytest.approx(6.0)
    assert guidance.scale_at(RecipeSpec(), 3, 50) == 6.0


def test_parallel_one_is_plain_guidance() -> None:
    """With the whole parallel part, APG is classifier-free guidance."""
    v_uncond, v_cond, x = halves()
    plain = guidance.guide(v_uncond, v_cond, 6.0)
    assert torch.allclose(guidance.guide_apart(v_uncond, v_cond, pred_x0(x, v_cond, 0.7), 6.0, 1.0), plain)


def test_parallel_zero_leaves_no_push_along_the_clean_estimate() -> None:
    """The change of the clean estimate is orthogonal to it, row by row, and what is orthogonal is pushed in full."""
    v_uncond, v_cond, x = halves()
    x0_cond = pred_x0(x, v_cond, 0.7)
    push = guidance.guide_apart(v_uncond, v_cond, x0_cond, 6.0, 0.0) - v_cond
    assert (push * x0_cond).sum((1, 2, 3, 4)).abs().max() < 1e-9
    full = guidance.guide(v_uncond, v_cond, 6.0) - v_cond
    along = (full * x0_cond).sum((1, 2, 3, 4), keepdim=True) / x0_cond.square().sum((1, 2, 3, 4), keepdim=True)
    assert torch.allclose(push, full - along * x0_cond)


def test_rescale_gives_the_contrast_of_the_prompted_half() -> None:
    """At 1 each row has the standard deviation of its prompted velocity, at 0 nothing changes."""
    v_uncond, v_cond, _ = halves()
    v = guidance.guide(v_uncond, v_cond, 6.0)
    assert torch.equal(guidance.rescaled(v, v_cond, 0.0), v)
    for row, wanted in zip(guidance.rescaled(v, v_cond, 1.0), v_cond, strict=True):
        assert row.std() == pytest.approx(float(wanted.std()))


def test_windows_cover_their_fractions() -> None:
    """A window of fractions: all, none, halves that meet without overlap."""
    assert guidance.window(0, 1, 50) == range(50)
    assert len(guidance.window(0.4, 0.4, 50)) == 0
    assert [*guidance.window(0, 0.5, 7), *guidance.window(0.5, 1, 7)] == list(range(7))


def test_falling_weight_ends_near_zero() -> None:
    """From the recipe's weight at the window's first step down, never negative; constant by default."""
    recipe = RecipeSpec(reference_schedule="falling", reference_weight=2.0)
    weights = [guidance.weight_at(recipe, step, range(3, 13)) for step in range(3, 13)]
    assert weights[0] == 2.0 and weights == sorted(weights, reverse=True) and 0 < weights[-1] < 0.4
    assert guidance.weight_at(RecipeSpec(reference_weight=2.0), 5, range(3, 13)) == 2.0


def test_matched_estimate_has_the_sources_statistics() -> None:
    """The clean estimate of the changed velocity has the source's mean and deviation in each channel."""
    v, _, x = halves()
    source = 3 + 2 * torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    clean = pred_x0(x, guidance.with_statistics(v, x, 1.2, source), 1.2)
    dims = (-4, -2, -1)
    assert torch.allclose(clean.mean(dims), source.mean((-4, -2, -1)).expand(3, -1))
    assert torch.allclose(clean.std(dims), source.std((-4, -2, -1)).expand(3, -1))
    same = pred_x0(x, v, 1.2)[0]
    assert torch.allclose(guidance.with_statistics(v, x, 1.2, same)[0], v[0])
