"""Fewer evaluations an edit: steps that are skipped, and the sampler of second order."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.ddim import ddim_step
from cogvideo_core.diffusion.guidance import guided_steps, window
from cogvideo_core.diffusion.inversion import seeded_noise
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.diffusion.skipping import EVERY, Whole, extrapolated
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import unwindowed
from cogvideo_core.settings.specs import ModelSpec, RecipeSpec
from cogvideo_core.shapes import build

STEPS, LAYERS = 10, 4


def schedule_of(steps: int = STEPS) -> Schedule:
    thetas = [math.pi / 2 * level / steps for level in range(steps + 1)]
    return Schedule((-1, *range(99, 100 * steps, 100)), tuple(thetas))


def swirl(x: Tensor, t: int, text: Tensor, reference: Any = None) -> Tensor:
    """A velocity that depends on everything a row's may depend on: its state, time, prompt and the reference."""
    seen = 0.0 if reference is None else x[: reference.rows].mean(0)
    return torch.tanh(x * text.mean((1, 2))[:, None, None, None, None] + t / 1000 + seen)


def prompts(edits: int = 3) -> editing.Texts:
    text = seeded_noise((edits + 2, 2, 4), 1)
    return editing.Texts(text[:edits], text[edits : edits + 1], text[edits + 1 :])


STATES = [seeded_noise((2, 3, 4, 4), level) for level in range(STEPS + 1)]


def edited(recipe: RecipeSpec, texts: editing.Texts, velocity: editing.RowVelocity = swirl) -> Tensor:
    x = torch.stack([STATES[STEPS - editing.first_step(recipe, STEPS)]] * len(texts.cond))
    return editing.edited(velocity, x, texts, STATES, schedule_of(), recipe, LAYERS)


def spelled_out(recipe: RecipeSpec, texts: editing.Texts) -> Tensor:
    """The loop in the plainest form: clean estimates and noises of whole steps in a list, continued by straight lines
    where a step is skipped. Guidance and reference are on in windows that begin with the first step."""
    schedule, first = schedule_of(), editing.first_step(recipe, STEPS)
    x = torch.stack([STATES[STEPS - first]] * len(texts.cond))
    every, at_first = EVERY[recipe.cache], 4
    known: list[tuple[float, Tensor, Tensor]] = []
    followed: list[tuple[float, Tensor, Tensor]] = []
    for place, step in enumerate(range(first, STEPS)):
        level = schedule.level(step)
        theta = schedule.thetas[level]
        if place < at_first or (place - at_first + 1) % every == 0:
            halves = editing.predict(
                swirl,
                x,
                schedule.timesteps[level],
                texts,
                True,
                recipe,
                editing.Referred(STATES[level], window(recipe.layer_start, recipe.layer_end, LAYERS), 1.0),
            )
            v = torch.stack([half for half in halves if half is not None])
            known.append((theta, x, v))
        else:
            (theta_0, x_0, v_0), (theta_1, x_1, v_1) = known[-2:]
            steady = math.cos(theta_1 - theta_0) * v_0 - math.sin(theta_1 - theta_0) * x_0
            drift = (v_1 - steady) / (theta_1 - theta_0)
            v = math.cos(theta - theta_1) * v_1 - math.sin(theta - theta_1) * x_1 + (theta - theta_1) * drift
        guided = v[0] + recipe.guidance_scale * (v[1] - v[0])
        after = ddim_step(x, guided, theta, schedule.thetas[level - 1])
        if recipe.sampler == "multistep2" and followed:
            theta_0, x_0, v_0 = followed[-1]
            steady = math.cos(theta - theta_0) * v_0 - math.sin(theta - theta_0) * x_0
            change = (guided - steady) / (theta - theta_0)
            after = after + (1 - math.cos(schedule.thetas[level - 1] - theta)) * change
        followed.append((theta, x, guided))
        x = after
    return x


@pytest.mark.parametrize("sampler", ["ddim", "multistep2"])
@pytest.mark.parametrize("cache", ["off", "safe", "bold"])
def test_the_loop_equals_its_plain_form(cache: str, sampler: str) -> None:
    """With each cache and sampler the loop gives what it gives when it is spelled out, within 1e-5; without cache and
    in DDIM, as all edits were made at first, bit for bit."""
    recipe, texts = unwindowed(cache=cache, sampler=sampler, guidance_scale=2.0), prompts()
    found, plain = edited(recipe, texts), spelled_out(recipe, texts)
    assert (found - plain).abs().max() < 1e-5
    assert torch.equal(found, plain) or (cache, sampler) != ("off", "ddim")


def test_a_clean_estimate_that_stays_is_continued_exactly() -> None:
    """Where a velocity points to one clean estimate and one noise at all angles, what is extrapolated is the truth."""
    clean, noise = seeded_noise((1, 2, 3, 4, 4), 0), seeded_noise((1, 2, 3, 4, 4), 1)

    def whole(theta: float) -> Whole:
        v = math.cos(theta) * noise - math.sin(theta) * clean
        return Whole(theta, math.cos(theta) * clean + math.sin(theta) * noise, (v, v + 0.0))

    halves = extrapolated(whole(1.4), whole(1.2), 0.9, guided=True)
    for half in halves:
        assert half is not None and torch.allclose(half, whole(0.9).halves[1], atol=1e-6)
    assert extrapolated(whole(1.4), whole(1.2), 0.9, guided=False)[0] is None


def test_extrapolation_is_of_second_order() -> None:
    """Half the distance between whole steps leaves a quarter of the error where clean estimates change smoothly."""

    def whole(theta: float) -> Whole:
        clean, noise = torch.full((1, 1, 1, 1, 1), math.sin(2 * theta), dtype=torch.float64), 1.0
        v = math.cos(theta) * noise - math.sin(theta) * clean
        return Whole(theta, math.cos(theta) * clean + math.sin(theta) * noise, (None, v))

    def error(h: float) -> float:
        found = extrapolated(whole(1.0 + 2 * h), whole(1.0 + h), 1.0, guided=False)[1]
        return float((found - whole(1.0).halves[1]).abs())

    assert error(0.02) / error(0.01) == pytest.approx(4, rel=0.2)


FRACTIONS = st.sampled_from([0.0, 0.2, 0.5, 0.8])


@given(
    st.sampled_from(["off", "safe", "bold"]),
    st.integers(1, 60),
    FRACTIONS,
    st.tuples(FRACTIONS, st.sampled_from([0.9, 1.0])),
    st.tuples(FRACTIONS, st.sampled_from([0.9, 1.0])),
)
def test_what_is_skipped_can_be_extrapolated(
    cache: str, steps: int, start_at: float, guided: tuple[float, float], referenced: tuple[float, float]
) -> None:
    """Before each skipped step lie two whole ones of its own kind: with a reference, or without; guided, if it is."""
    recipe = unwindowed(
        cache=cache,
        start_at=start_at,
        guidance_start=guided[0],
        guidance_end=guided[1],
        reference_start=referenced[0],
        reference_end=referenced[1],
    )
    whole = editing.computed_steps(recipe, steps, LAYERS)
    taken = range(editing.first_step(recipe, steps), steps)
    assert whole <= set(taken) and (cache != "off" or whole == set(taken))
    seen = editing.referenced_steps(recipe, steps, range(LAYERS))
    for step in set(taken) - whole:
        before = sorted(each for each in whole if each < step)[-2:]
        assert len(before) == 2
        assert all((each in seen) == (step in seen) for each in before)
        assert step not in guided_steps(recipe, steps) or all(each in guided_steps(recipe, steps) for each in before)


def test_a_cache_saves_what_it_says() -> None:
    """At 20 steps of the default windows, 10 of the 16 are whole with the safe cache and 8 with the bold one."""
    counts = [len(editing.computed_steps(RecipeSpec(cache=cache), 20, 42)) for cache in ("off", "safe", "bold")]
    assert counts == [16, 10, 8]


def gaussian_error(sampler: str, steps: int, spread: float = 0.3) -> float:
    """How far an edit without guidance and reference ends from where the flow of Gaussian clips, which is known, leads.

    Clips of standard deviation s have the deviation √(s² cos² θ + sin² θ) at the angle θ, and states keep their share.
    """
    schedule, recipe = schedule_of(steps), unwindowed(guidance_scale=1.0, reference_weight=0.0, sampler=sampler)

    def velocity(x: Tensor, t: int, text: Tensor, reference: Any = None) -> Tensor:
        theta = schedule.thetas[schedule.timesteps.index(t)]
        variance = (spread * math.cos(theta)) ** 2 + math.sin(theta) ** 2
        return x * math.cos(theta) * math.sin(theta) * (1 - spread**2) / variance

    x = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    found = editing.edited(velocity, x, prompts(1), [x[0]] * (steps + 1), schedule, recipe, LAYERS)
    return float((found - spread * x).abs())


def test_samplers_are_of_their_order() -> None:
    """Twice the steps leave half of DDIM's error and a quarter of multistep2's, which is the smaller one throughout."""
    ddim, second = ([gaussian_error(sampler, steps) for steps in (40, 80)] for sampler in ("ddim", "multistep2"))
    assert ddim[0] / ddim[1] == pytest.approx(2, rel=0.15)
    assert second[0] / second[1] == pytest.approx(4, rel=0.25)
    assert second[0] < ddim[0] / 2 and second[1] < ddim[1] / 2


@pytest.mark.parametrize("cache", ["safe", "bold"])
def test_leaving_the_batch_changes_no_other_edit(cache: str) -> None:
    """An edit that leaves the batch at any step takes its own history along: the others end as they do without it."""
    recipe, texts = unwindowed(cache=cache, sampler="multistep2"), prompts()
    alone = edited(recipe, texts.of(torch.tensor([True, False, True])))
    for leaving in range(1, STEPS - 1):
        x = torch.stack([STATES[STEPS]] * 3)
        states = editing.edit(swirl, x, texts, STATES.__getitem__, schedule_of(), recipe, LAYERS)
        sent, last = None, x
        for step in range(STEPS):
            last = states.send(sent)
            sent = torch.tensor([True, False, True]) if step == leaving else None
        assert torch.allclose(last, alone, atol=1e-5)


@pytest.mark.parametrize("cache", ["safe", "bold"])
@pytest.mark.parametrize(
    ("variant", "reference_prompt"),
    [("5b", "inversion"), ("5b", "per_half"), ("5b-i2v", "inversion"), ("1.5-5b-i2v", "inversion")],
)
def test_batching_does_not_matter_with_a_cache(cache: str, variant: str, reference_prompt: str) -> None:
    """On a model, three edits in one batch equal the same edits one by one within 1e-4, and cost what is announced;
    also those of an image-to-video model, whose reference rows see another image."""
    model = VideoModel(build.build_pipeline(variant), ModelSpec())
    windows = {"reference_prompt": reference_prompt, "guidance_end": 0.5}
    recipe = unwindowed(cache=cache, sampler="multistep2", **windows)
    schedule, f, config = model.schedule(STEPS), 3 + model.front_padding, model.transformer.config
    size = (config.out_channels, config.sample_height, config.sample_width)
    states = [seeded_noise((f, *size), level) for level in range(STEPS + 1)]
    text = seeded_noise((5, model.text_tokens, config.text_embed_dim), 9)
    texts = editing.Texts(text[:3], text[3:4], text[4:])
    images = [seeded_noise(size, seed) for seed in (20, 21)] if model.image_to_video else []
    velocity = model.conditioned(*images) if images else model.velocity

    def run(chosen: Tensor) -> Tensor:
        x = torch.stack([states[STEPS]] * int(chosen.sum()))
        return editing.edited(velocity, x, texts.of(chosen), states, schedule, recipe, model.layers)

    before = model.evaluations
    together = run(torch.tensor([True] * 3))
    assert model.evaluations - before == editing.edit_evaluations(recipe, STEPS, 3, model.layers)
    for edit in range(3):
        assert (together[edit] - run(torch.arange(3) == edit)[0]).abs().max() < 1e-4
