"""The angle schedule and the DDIM step against diffusers, in float64."""

import math

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.diffusion import ddim
from cogvideo_core.diffusion.schedule import CLEAN, angles, schedule_from_config
from cogvideo_core.errors import BadSpec

BASE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def scheduler(shift: float, steps: int) -> CogVideoXDDIMScheduler:
    made = CogVideoXDDIMScheduler(snr_shift_scale=shift, **BASE)
    made.set_timesteps(steps)
    return made


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_our_step_equals_diffusers_step(steps: int, shift: float) -> None:
    """Where N divides 1000, our rotation and CogVideoXDDIMScheduler.step agree within 1e-10 at every step."""
    theirs = scheduler(shift, steps)
    ours = schedule_from_config(theirs.config, steps)
    rng = torch.Generator().manual_seed(0)
    x, v = (torch.randn(4, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    for step, t in enumerate(theirs.timesteps):
        level = ours.level(step)
        assert ours.timesteps[level] == int(t)
        expected = theirs.step(v, int(t), x, return_dict=False)[0]
        got = ddim.ddim_step(x, v, ours.thetas[level], ours.thetas[level - 1])
        assert (got - expected).abs().max() <= 1e-10


def test_diffusers_leaves_its_own_grid_at_30_steps() -> None:
    """At N = 30 diffusers steps to t - 33, which is not on its own grid; ours go to the next timestep of the grid."""
    theirs = scheduler(1.0, 30)
    grid = {int(t) for t in theirs.timesteps} | {CLEAN}
    landings = {int(t) - 1000 // 30 for t in theirs.timesteps}
    assert not landings <= grid
    ours = schedule_from_config(theirs.config, 30)
    x, v = torch.ones(3, dtype=torch.float64), torch.arange(3, dtype=torch.float64)
    differences = []
    for step, t in enumerate(theirs.timesteps):
        level = ours.level(step)
        expected = theirs.step(v, int(t), x, return_dict=False)[0]
        differences.append((ddim.ddim_step(x, v, ours.thetas[level], ours.thetas[level - 1]) - expected).abs().max())
    assert max(differences) > 1e-3


def test_scheduler_class_does_not_matter() -> None:
    """A checkpoint saved with the DPM scheduler has the noise levels of its DDIM twin."""
    dpm = CogVideoXDPMScheduler(snr_shift_scale=3.0, **BASE)
    assert schedule_from_config(dpm.config, 20) == schedule_from_config(scheduler(3.0, 20).config, 20)


def test_snr_shift_reaches_the_angles() -> None:
    """Dropping 2B's shift of 3 would change √ᾱ_499 from 0.310 to 0.492; ours has the shifted value."""
    for shift, root in ((1.0, 0.492), (3.0, 0.310)):
        schedule = schedule_from_config(CogVideoXDDIMScheduler(snr_shift_scale=shift, **BASE).config, 1000)
        assert math.cos(schedule.thetas[schedule.timesteps.index(499)]) == pytest.approx(root, abs=1e-3)


def test_zero_snr_is_exactly_a_right_angle() -> None:
    """θ is finite and π/2 at ᾱ = 0, and 0 at ᾱ = 1."""
    assert angles(np.array([0.0, 1.0])).tolist() == [math.pi / 2, 0.0]


@given(
    st.integers(1, 1000), st.sampled_from(["trailing", "linspace", "leading", "cosine"]), st.sampled_from([1.0, 3.0])
)
def test_levels_rise(steps: int, spacing: str, shift: float) -> None:
    """For every N and spacing the angles rise strictly from the clean end and there are N + 1 levels."""
    schedule = schedule_from_config(BASE | {"snr_shift_scale": shift}, steps, spacing)
    assert schedule.steps == steps and schedule.timesteps[0] == CLEAN
    assert all(a < b for a, b in zip(schedule.thetas, schedule.thetas[1:], strict=False))
    assert schedule.thetas[-1] <= math.pi / 2


def test_first_rotation_off_the_clean_latent_is_the_largest() -> None:
    """With 50 trailing steps on the 5B schedule the rotations are 7.9, 3.6, 2.9 ... 0.53 degrees from the clean end."""
    thetas = np.degrees(schedule_from_config(BASE | {"snr_shift_scale": 1.0}, 50).thetas)
    turns = np.diff(thetas)
    assert turns[:3] == pytest.approx([7.9, 3.6, 2.9], abs=0.06)
    assert turns[-1] == pytest.approx(0.53, abs=0.01)
    assert turns.argmax() == 0


@pytest.mark.parametrize("steps", [1, 12, 20, 50, 999, 1000])
def test_cosine_steps_are_short_at_both_ends(steps: int) -> None:
    """They lie at T (1 - cos πi/N) / 2, rounded, moved by no more than it takes to keep them apart; the last is the
    zero-SNR one. Up to 100 steps the first and the last rotation are shorter than in trailing, those between longer."""
    config = BASE | {"snr_shift_scale": 1.0}
    found = schedule_from_config(config, steps, "cosine")
    assert found.timesteps[-1] == 999 and found.thetas[-1] == math.pi / 2
    assert len(set(found.timesteps)) == steps + 1
    if steps <= 20:
        nodes = [round(500 * (1 - math.cos(math.pi * i / steps))) - 1 for i in range(1, steps + 1)]
        assert list(found.timesteps[1:]) == nodes
    if 1 < steps <= 100:
        turns, trailing = (
            np.diff(schedule_from_config(config, steps, spacing).thetas) for spacing in ("cosine", "trailing")
        )
        assert turns[0] < 0.6 * trailing[0] and turns[-1] < 0.6 * trailing[-1]
        assert turns[steps // 2] > 1.2 * trailing[steps // 2]


@pytest.mark.parametrize("field", ["epsilon", "sample", None])
def test_other_predictions_are_refused(field: str | None) -> None:
    """A checkpoint that does not predict v is refused with a sentence that says so."""
    with pytest.raises(BadSpec, match="v_prediction"):
        schedule_from_config(BASE | {"prediction_type": field}, 10)


def test_too_many_steps_are_refused() -> None:
    """More steps than timesteps can't make a grid."""
    with pytest.raises(BadSpec, match="steps"):
        schedule_from_config(BASE, 1001)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_two_states_tell_the_clean_estimate(shift: float) -> None:
    """Between any two neighbouring levels, the zero-SNR one among them, the estimate from the states alone is that of
    the velocity: within 1e-9 in float64 and 1e-3 in float32."""
    schedule = schedule_from_config(scheduler(shift, 50).config, 50)
    rng = torch.Generator().manual_seed(0)
    x, v = (torch.randn(4, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    for theta, below in zip(schedule.thetas[2:], schedule.thetas[1:], strict=False):
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
            here, velocity = x.to(dtype), v.to(dtype)
            after = ddim.ddim_step(here, velocity, theta, below)
            found = ddim.x0_between(here, after, theta, below)
            torch.testing.assert_close(found, ddim.pred_x0(here, velocity, theta), rtol=0, atol=tolerance)
