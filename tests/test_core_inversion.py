"""Inverters against models whose flow is known in closed form."""

import math

import pytest
import torch

from cogvideo_core import ddim, inversion
from cogvideo_core.errors import BadSpec
from cogvideo_core.schedule import Schedule, schedule_from_config

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "clip_sample": False,
}
STD = 0.3


class Gaussian:
    """The exact velocity of data drawn from N(0, STD²): v = E[cos θ ε - sin θ x_0 | x_t]; counts its calls."""

    def __init__(self, schedule: Schedule) -> None:
        self.theta = dict(zip(schedule.timesteps, schedule.thetas, strict=True))
        self.calls = 0

    def __call__(self, x: torch.Tensor, t: int) -> torch.Tensor:
        self.calls += 1
        c, s = math.cos(self.theta[t]), math.sin(self.theta[t])
        return c * s * (1 - STD**2) / (c**2 * STD**2 + s**2) * x


def spread(theta: float) -> float:
    """The marginal's standard deviation: the true flow scales x by its ratio."""
    return math.sqrt(math.cos(theta) ** 2 * STD**2 + math.sin(theta) ** 2)


def clean() -> torch.Tensor:
    return STD * torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def error(method: str, steps: int, iterations: int = 0) -> float:
    """Relative error of x_T against the true flow."""
    schedule = schedule_from_config(CONFIG, steps)
    x_0 = clean()
    *_, x_t = inversion.invert(Gaussian(schedule), x_0, schedule, method, iterations)
    return float((x_t / x_0 - spread(schedule.thetas[-1]) / STD).abs().max() * STD)


def test_ddim_and_fixed_point_converge_to_the_true_flow() -> None:
    """Both are first-order: four times the steps at least halve the error, and it ends below 10 %."""
    for method, iterations in (("ddim", 0), ("fixed_point", 8)):
        coarse, fine = error(method, 25, iterations), error(method, 100, iterations)
        assert fine < coarse / 2 and fine < 0.1


def reconstruction(method: str, iterations: int) -> float:
    schedule = schedule_from_config(CONFIG, 50)
    velocity = Gaussian(schedule)
    *_, x_t = inversion.invert(velocity, clean(), schedule, method, iterations)
    *_, again = ddim.sample(velocity, x_t, schedule)
    return float((again - clean()).abs().max() / STD)


def test_fixed_point_inverts_the_sampler() -> None:
    """Iterated to the end, sampling back gives the clean latents to 1e-9; plain DDIM inversion misses by over 10 %."""
    assert reconstruction("fixed_point", 60) < 1e-9
    assert reconstruction("ddim", 0) > 0.1


def test_more_iterations_never_reconstruct_worse() -> None:
    """0, 1, 2, 3, 5 iterations: each reconstructs better than the one before."""
    errors = [reconstruction("fixed_point", k) for k in (0, 1, 2, 3, 5)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 5


@pytest.mark.parametrize(("method", "iterations"), [("ddim", 0), ("fixed_point", 3), ("none", 0)])
def test_states_and_cost(method: str, iterations: int) -> None:
    """N + 1 states, the clean latents first, at exactly the evaluations that `evaluations` announces."""
    schedule = schedule_from_config(CONFIG, 10)
    velocity = Gaussian(schedule)
    states = list(inversion.invert(velocity, clean(), schedule, method, iterations))
    assert len(states) == 11 and torch.equal(states[0], clean())
    assert velocity.calls == inversion.evaluations(method, 10, iterations)


def test_noised_source_has_the_right_marginals() -> None:
    """Without inversion the levels are the clean latents under one noise: cos θ · x_0 + sin θ · ε."""
    schedule = schedule_from_config(CONFIG, 4)
    x_0 = torch.randn(2, 3, 4, 4)
    states = list(inversion.noised_source(x_0, schedule, seed=7))
    noise = inversion.seeded_noise(x_0.shape, 7)
    for state, theta in zip(states, schedule.thetas, strict=True):
        assert torch.allclose(state, math.cos(theta) * x_0 + math.sin(theta) * noise, atol=1e-6)


def test_too_few_steps_are_refused_by_name() -> None:
    """One step turns by 90 degrees, where the fixed-point equation divides by zero: refused, naming the field."""
    schedule = schedule_from_config(CONFIG, 1)
    with pytest.raises(BadSpec, match="steps"):
        list(inversion.invert(Gaussian(schedule), clean(), schedule, "fixed_point", 2))


def test_unknown_inverter_is_refused() -> None:
    """The sentence names the inverters there are."""
    with pytest.raises(BadSpec, match="ddim"):
        inversion.invert(lambda x, t: x, clean(), schedule_from_config(CONFIG, 4), "magic")


def test_noise_depends_on_its_seed_alone() -> None:
    """The same seed gives the same noise whatever was drawn before; another seed gives another."""
    first = inversion.seeded_noise((2, 3), 5)
    torch.randn(100)
    assert torch.equal(first, inversion.seeded_noise((2, 3), 5))
    assert not torch.equal(first, inversion.seeded_noise((2, 3), 6))
