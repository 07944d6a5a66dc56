"""Inverters against models whose flow is known in closed form."""

import itertools
import math
from typing import Any

import pytest
import torch

from cogvideo_core.diffusion import ddim, inversion
from cogvideo_core.diffusion.schedule import Schedule, schedule_from_config
from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import InversionSpec

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "clip_sample": False,
}
MEAN, STD = 0.4, 0.3
METHODS = [
    InversionSpec(method="ddim"),
    InversionSpec(method="fixed_point", iterations=3),
    InversionSpec(method="multistep"),
    InversionSpec(method="multistep", iterations=2, first_iterations=5),
    InversionSpec(method="none"),
]


class Gaussian:
    """The exact velocity of data drawn from N(MEAN, STD²): v = E[cos θ ε - sin θ x_0 | x_t]; counts its calls."""

    def __init__(self, schedule: Schedule) -> None:
        self.theta = dict(zip(schedule.timesteps, schedule.thetas, strict=True))
        self.calls = 0

    def __call__(self, x: torch.Tensor, t: int) -> torch.Tensor:
        self.calls += 1
        c, s = math.cos(self.theta[t]), math.sin(self.theta[t])
        return c * s * (1 - STD**2) / (c**2 * STD**2 + s**2) * (x - c * MEAN) - s * MEAN


def flow(x_0: torch.Tensor, theta: float) -> torch.Tensor:
    """Where the true flow takes x_0: the mean moves and the spread grows, in closed form."""
    c, s = math.cos(theta), math.sin(theta)
    return c * MEAN + math.sqrt(c**2 * STD**2 + s**2) / STD * (x_0 - MEAN)


def clean() -> torch.Tensor:
    return MEAN + STD * torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def noisiest(
    settings: InversionSpec, steps: int, x_0: torch.Tensor | None = None, spacing: str = "trailing"
) -> tuple[torch.Tensor, Schedule]:
    schedule = schedule_from_config(CONFIG, steps, spacing)
    *_, x_t = inversion.invert(Gaussian(schedule), clean() if x_0 is None else x_0, schedule, settings)
    return x_t, schedule


def error(settings: InversionSpec, steps: int) -> float:
    """Largest error of x_T against the true flow, whose standard deviation is 1."""
    x_t, schedule = noisiest(settings, steps)
    return float((x_t - flow(clean(), schedule.thetas[-1])).abs().max())


def test_the_velocity_follows_the_flow() -> None:
    """The closed forms above agree: the flow's derivative by θ is the velocity."""
    schedule, h = schedule_from_config(CONFIG, 10), 1e-5
    for t, theta in list(zip(schedule.timesteps, schedule.thetas, strict=True))[1:]:
        slope = (flow(clean(), theta + h) - flow(clean(), theta - h)) / (2 * h)
        assert torch.allclose(Gaussian(schedule)(flow(clean(), theta), t), slope, atol=1e-8)


def test_inverters_converge_to_the_true_flow() -> None:
    """The solvers of the implicit step are of first order, as the sampler is: doubling the steps divides the error by
    1.7 or more. Plain DDIM inversion comes to the true flow too, and more unevenly."""
    for settings in METHODS[1:4]:
        errors = [error(settings, steps) for steps in (25, 50, 100, 200)]
        assert all(fine < coarse / 1.7 for coarse, fine in itertools.pairwise(errors)), errors
    assert error(METHODS[0], 25) > 3 * error(METHODS[0], 100) and error(METHODS[0], 400) < 0.03


def sampling_error(steps: int, spacing: str) -> float:
    """Largest error of a DDIM run from the true x_T, in standard deviations of the clips."""
    schedule = schedule_from_config(CONFIG, steps, spacing)
    *_, again = ddim.sample(Gaussian(schedule), flow(clean(), schedule.thetas[-1]), schedule)
    return float((again - clean()).abs().max() / STD)


def test_short_steps_at_both_ends_follow_the_flow_better() -> None:
    """With cosine spacing the sampler is of first order as with trailing, at little more than half of its error or
    less; and what the multistep inverter leaves unsolved is less than half of it from 20 steps on."""
    cosine = [sampling_error(steps, "cosine") for steps in (10, 20, 40, 80)]
    trailing = [sampling_error(steps, "trailing") for steps in (10, 20, 40, 80)]
    assert all(fine < coarse / 1.7 for coarse, fine in itertools.pairwise(cosine)), cosine
    assert all(ours < 0.6 * theirs for ours, theirs in zip(cosine, trailing, strict=True)), trailing
    settings = InversionSpec(method="multistep", first_iterations=5)
    for steps in (20, 50):
        assert reconstruction(settings, steps, "cosine") < 0.5 * reconstruction(settings, steps)


def reconstruction(settings: InversionSpec, steps: int = 50, spacing: str = "trailing") -> float:
    x_t, schedule = noisiest(settings, steps, spacing=spacing)
    *_, again = ddim.sample(Gaussian(schedule), x_t, schedule)
    return float((again - clean()).abs().max() / STD)


def test_fixed_point_inverts_the_sampler() -> None:
    """Iterated to the end, sampling back gives the clean latents to 1e-9; plain DDIM inversion misses by over 10 %."""
    assert reconstruction(InversionSpec(method="fixed_point", iterations=60)) < 1e-9
    assert reconstruction(InversionSpec(method="ddim")) > 0.1


def test_more_iterations_never_reconstruct_worse() -> None:
    """0, 1, 2, 3, 5 iterations: each reconstructs better than the one before."""
    fixed = [reconstruction(InversionSpec(method="fixed_point", iterations=k)) for k in (1, 2, 3, 5)]
    errors = [reconstruction(InversionSpec(method="ddim")), *fixed]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 5


def off(steps: int = 50, **fields: Any) -> float:
    """How far x_T is from the converged fixed point, at most."""
    there, _ = noisiest(InversionSpec(method="fixed_point", iterations=60), steps)
    return float((noisiest(InversionSpec(**fields), steps)[0] - there).abs().max())


def test_multistep_finds_what_the_fixed_point_converges_to() -> None:
    """At 65 evaluations it is nearer to the converged fixed point than one iteration a level at 100; run on, it is
    there."""
    assert off() < off(method="fixed_point") / 5 and off() < 0.01
    assert off(iterations=30, first_iterations=30) < 1e-9


def test_extrapolation_beats_the_order_of_the_step() -> None:
    """What one iteration a level leaves of the implicit equation falls faster than the step length: halved steps, a
    third or less; the step's own error only halves."""
    errors = [off(steps, first_iterations=60) for steps in (50, 100, 200)]
    assert all(fine < coarse / 3 for coarse, fine in itertools.pairwise(errors)), errors


def test_acceleration_solves_the_first_level_sooner() -> None:
    """After the same ten evaluations the accelerated iteration is nearer to the fixed point than the plain one."""
    schedule = schedule_from_config(CONFIG, 50)
    velocity, t, delta = Gaussian(schedule), schedule.timesteps[1], schedule.thetas[1]
    exact, _ = inversion.first_level(velocity, clean(), t, delta, 100)
    x = ddim.rotate(clean(), velocity(clean(), t), delta)
    assert torch.allclose(exact, inversion.arrived(clean(), velocity(exact, t), delta), atol=1e-12)
    for _ in range(9):
        x = inversion.arrived(clean(), velocity(x, t), delta)
    fast, _ = inversion.first_level(velocity, clean(), t, delta, 9)
    assert (fast - exact).abs().max() < (x - exact).abs().max() / 10


@pytest.mark.parametrize("settings", METHODS, ids=lambda s: f"{s.method}_{s.iterations}")
def test_rows_are_inverted_as_if_alone(settings: InversionSpec) -> None:
    """Two clips as rows of one call end where each ends by itself, even where a row's own residual steers it."""
    both, _ = noisiest(settings, 10)
    alone = [noisiest(settings, 10, row)[0] for row in clean()]
    if settings.method != "none":  # whose noise has the shape of all rows
        assert torch.allclose(both, torch.stack(alone), atol=1e-12)
    assert len(both) == 2


@pytest.mark.parametrize("settings", METHODS, ids=lambda s: f"{s.method}_{s.iterations}")
def test_states_and_cost(settings: InversionSpec) -> None:
    """N + 1 states, the clean latents first, at exactly the evaluations that `evaluations` announces."""
    settings = settings.model_copy(update={"steps": 10})
    schedule = schedule_from_config(CONFIG, 10)
    velocity = Gaussian(schedule)
    states = list(inversion.invert(velocity, clean(), schedule, settings))
    assert len(states) == 11 and torch.equal(states[0], clean())
    assert velocity.calls == inversion.evaluations(settings)


def test_a_stronger_inverter_costs_more_and_reconstructs_better() -> None:
    """Each inverter that looks at the model has a stronger one; the default's is within 1e-4 of the clip."""
    for settings in METHODS[:4]:
        more = inversion.stronger(settings)
        assert inversion.evaluations(more) > inversion.evaluations(settings)
        assert reconstruction(more) < reconstruction(settings)
    assert reconstruction(inversion.stronger(InversionSpec())) < 1e-4


def test_noised_source_has_the_right_marginals() -> None:
    """Without inversion the levels are the clean latents under one noise: cos θ · x_0 + sin θ · ε."""
    schedule = schedule_from_config(CONFIG, 4)
    x_0 = torch.randn(2, 3, 4, 4)
    states = list(inversion.noised_source(x_0, schedule, seed=7))
    noise = inversion.seeded_noise(x_0.shape, 7)
    for state, theta in zip(states, schedule.thetas, strict=True):
        assert torch.allclose(state, math.cos(theta) * x_0 + math.sin(theta) * noise, atol=1e-6)


@pytest.mark.parametrize("method", ["fixed_point", "multistep"])
def test_too_few_steps_are_refused_by_name(method: Any) -> None:
    """One step turns by 90 degrees, where the implicit equation divides by zero: refused, naming the field."""
    schedule = schedule_from_config(CONFIG, 1)
    with pytest.raises(BadSpec, match="steps"):
        list(inversion.invert(Gaussian(schedule), clean(), schedule, InversionSpec(method=method)))


def test_noise_depends_on_its_seed_alone() -> None:
    """The same seed gives the same noise whatever was drawn before; another seed gives another."""
    first = inversion.seeded_noise((2, 3), 5)
    torch.randn(100)
    assert torch.equal(first, inversion.seeded_noise((2, 3), 5))
    assert not torch.equal(first, inversion.seeded_noise((2, 3), 6))
