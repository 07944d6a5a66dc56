"""The editing loop against plain implementations, on small models of the released variants, in float32."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cogvideo_core.diffusion import editing, guidance
from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.ddim import ddim_step, noised
from cogvideo_core.diffusion.inversion import invert, seeded_noise
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.models import processors
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import unwindowed
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import build, world

STEPS = 4
VARIANTS = ["5b", "2b", "1.5-5b"]


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return VideoModel(build.build_pipeline(request.param), ModelSpec())


@pytest.fixture(scope="module")
def model_5b() -> VideoModel:
    return VideoModel(build.build_pipeline("5b"), ModelSpec())


class Clip:
    """One inverted clip and the prompts of its edits."""

    def __init__(self, model: VideoModel, seed: int = 0, edits: int = 3) -> None:
        scene = world.scene_from_seed(seed)
        self.model, self.schedule = model, model.schedule(STEPS)
        prompts = [scene.edited(colour=colour).combination.caption() for colour in list(world.COLOURS)[:edits]]
        text = model.embed([*prompts, "", scene.combination.caption()])
        self.texts = editing.Texts(text[:-2], text[-2:-1], text[-1:])
        x_0 = model.encode(world.render(scene))
        self.states = list(invert(model.one_row(text[-1:]), x_0, self.schedule, InversionSpec(method="fixed_point")))

    def edit(self, recipe: RecipeSpec, rows: slice = slice(None)) -> Tensor:
        texts = editing.Texts(self.texts.cond[rows], self.texts.uncond, self.texts.reference)
        seeds = list(range(len(self.texts.cond)))[rows]
        x = torch.stack([editing.start_latents(recipe, self.schedule, self.states.__getitem__, s) for s in seeds])
        return editing.edited(self.model.velocity, x, texts, self.states, self.schedule, recipe, self.model.layers)


def plain_edit(clip: Clip, recipe: RecipeSpec, edit: int) -> Tensor:
    """One edit, spelled out: each half with a reference row of its own, duplicated, no batching."""
    model, schedule = clip.model, clip.schedule
    x = editing.start_latents(recipe, schedule, clip.states.__getitem__, edit)[None]
    cond, uncond = clip.texts.cond[edit : edit + 1], clip.texts.uncond
    text_ref = {"edit": (cond, cond), "per_half": (uncond, cond)}.get(
        recipe.reference_prompt, (clip.texts.reference, clip.texts.reference)
    )
    for step in range(STEPS):
        level = schedule.level(step)
        t = schedule.timesteps[level]
        halves = []
        for text, ref in zip((uncond, cond), text_ref, strict=True):
            if step in guidance.window(recipe.reference_start, recipe.reference_end, STEPS):
                rows = torch.cat([clip.states[level][None], x])
                layers = guidance.window(recipe.layer_start, recipe.layer_end, model.layers)
                halves.append(model.velocity(rows, t, torch.cat([ref, text]), Reference(1, layers))[1:])
            else:
                halves.append(model.velocity(x, t, text))
        v = halves[1]
        if step in guidance.window(recipe.guidance_start, recipe.guidance_end, STEPS):
            v = halves[0] + recipe.guidance_scale * (halves[1] - halves[0])
        x = ddim_step(x, v, schedule.thetas[level], schedule.thetas[level - 1])
    return x[0]


@pytest.mark.parametrize("reference_prompt", ["inversion", "source", "edit", "per_half"])
def test_shared_reference_equals_duplicated(model: VideoModel, reference_prompt: str) -> None:
    """The shared reference row gives what one for each half and edit gives, within 1e-4, on every variant."""
    clip = Clip(model)
    recipe = unwindowed(reference_prompt=reference_prompt, reference_end=1.0)
    together = clip.edit(recipe)
    for edit in range(3):
        assert (together[edit] - plain_edit(clip, recipe, edit)).abs().max() < 1e-4


def test_windows_of_steps_and_layers_equal_plain(model_5b: VideoModel) -> None:
    """A reference in the middle steps and the first layer only equals the plain loop with that window."""
    clip = Clip(model_5b)
    recipe = unwindowed(reference_start=0.25, reference_end=0.75, layer_end=0.5)
    assert (clip.edit(recipe)[1] - plain_edit(clip, recipe, 1)).abs().max() < 1e-4


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.5, 1.0), (0.0, 1.0)])
def test_dropping_the_reference_row_changes_nothing(
    model: VideoModel, window: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edits are the same when reference rows go on through the layers behind the window; fewer rows reach the last."""
    clip = Clip(model)
    recipe = unwindowed(layer_start=window[0], layer_end=window[1], reference_end=1.0)
    rows: list[int] = []
    last = model.transformer.transformer_blocks[-1].ff
    with last.register_forward_hook(lambda module, args, output: rows.append(len(output))):
        dropped = clip.edit(recipe)
        monkeypatch.setattr(processors, "is_past", lambda reference, layer: False)
        kept = clip.edit(recipe)
    assert (dropped - kept).abs().max() < 1e-4
    assert rows == [6 if window[1] < 1 else 7] * STEPS + [7] * STEPS


def test_hooks_are_installed_once(model_5b: VideoModel) -> None:
    """A second adapter around the same model adds no hooks and edits alike."""
    recipe = unwindowed(layer_end=0.5, reference_end=1.0)
    before = Clip(model_5b).edit(recipe)
    again = VideoModel(model_5b.pipe, ModelSpec())
    assert len(again.transformer.transformer_blocks[0]._forward_pre_hooks) == 1
    assert torch.equal(Clip(again).edit(recipe), before)


def test_reference_text_can_be_left_out(model_5b: VideoModel) -> None:
    """Without its text keys the reference acts through its image tokens alone, and that is another edit."""
    clip = Clip(model_5b)
    whole, image_only = (clip.edit(unwindowed(reference_text=text, reference_end=1.0)) for text in (True, False))
    assert (whole - image_only).abs().max() > 1e-3


@pytest.mark.parametrize("reference_prompt", ["inversion", "per_half"])
def test_guidance_interval_equals_plain(model_5b: VideoModel, reference_prompt: str) -> None:
    """Leaving unguided rows out of the steps outside the interval equals computing and ignoring them."""
    clip = Clip(model_5b)
    recipe = unwindowed(guidance_start=0.25, guidance_end=0.75, reference_prompt=reference_prompt, reference_end=1.0)
    assert (clip.edit(recipe)[2] - plain_edit(clip, recipe, 2)).abs().max() < 1e-4


@pytest.mark.parametrize("field", ["guidance_rescale", "guidance_parallel"])
def test_remedies_reach_the_edit(model_5b: VideoModel, field: str) -> None:
    """Each field changes the edit, and its neutral value does not."""
    clip = Clip(model_5b)
    neutral, other = (0.0, 0.7) if field == "guidance_rescale" else (1.0, 0.0)
    plain = clip.edit(unwindowed())
    assert torch.equal(clip.edit(unwindowed(**{field: neutral})), plain)
    assert (clip.edit(unwindowed(**{field: other})) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("start", ["inverted", "noised", "fresh", "mixed"])
def test_batching_does_not_matter(model: VideoModel, start: str) -> None:
    """Three edits in one batch equal the same edits one by one, within 1e-4."""
    clip = Clip(model)
    recipe = unwindowed(start=start, start_at=0.25 if start == "noised" else 0.0)
    together = clip.edit(recipe)
    for edit in range(3):
        assert (together[edit : edit + 1] - clip.edit(recipe, slice(edit, edit + 1))).abs().max() < 1e-4


@pytest.mark.parametrize("change", [{"reference_schedule": "falling"}, {"match_statistics": 0.5}])
def test_remedies_of_the_loop_reach_the_edit(model_5b: VideoModel, change: dict[str, Any]) -> None:
    """A falling reference weight and matched statistics change an edit; its evaluations stay the same."""
    clip = Clip(model_5b)
    before, plain = model_5b.evaluations, clip.edit(unwindowed(reference_end=1.0))
    cost, changed = model_5b.evaluations - before, clip.edit(unwindowed(reference_end=1.0, **change))
    assert (changed - plain).abs().max() > 1e-3
    assert model_5b.evaluations - before == 2 * cost


def test_mixed_start_takes_each_band_from_its_own() -> None:
    """Low frequencies of the inverted noise, high ones of the fresh; with both the same nothing changes."""
    rng = torch.Generator().manual_seed(0)
    low, high = (torch.randn(3, 8, 12, 12, generator=rng) for _ in range(2))
    out = torch.fft.fft2(editing.mixed(low, high, 0.2))
    assert torch.allclose(out[..., :2, :2], torch.fft.fft2(low)[..., :2, :2], atol=1e-3)
    assert torch.allclose(out[..., 6, 6], torch.fft.fft2(high)[..., 6, 6], atol=1e-3)
    assert torch.allclose(editing.mixed(low, low, 0.2), low, atol=1e-5)


def test_two_threads_on_one_model_equal_each_alone(model_5b: VideoModel) -> None:
    """Two clips edited at the same time by two threads come out as they do alone."""
    clips = [Clip(model_5b, 1), Clip(model_5b, 2)]
    recipe = unwindowed(reference_end=1.0)
    alone = [clip.edit(recipe) for clip in clips]
    together: dict[int, Tensor] = {}
    barrier = threading.Barrier(2)

    def work(i: int) -> None:
        barrier.wait()
        together[i] = clips[i].edit(recipe)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert (together[i] - alone[i]).abs().max() < 1e-4


def test_reference_is_felt_and_zero_weight_is_not(model_5b: VideoModel) -> None:
    """The reference changes the result; weight 0 and an empty window both give the plain generation exactly."""
    clip = Clip(model_5b)
    full = clip.edit(unwindowed(reference_end=1.0))
    off = clip.edit(unwindowed(reference_end=0.0))
    assert (full - off).abs().max() > 1e-3
    assert torch.equal(clip.edit(unwindowed(reference_end=1.0, reference_weight=0.0)), off)


@pytest.mark.parametrize("reference_prompt", ["inversion", "per_half", "edit"])
def test_a_ladder_of_strengths_is_edits_at_divided_weights(model_5b: VideoModel, reference_prompt: str) -> None:
    """Edits of several strengths in one batch, guided in some steps, are those of the divided weights one by one; all
    ones are the plain edits."""
    clip, strengths = Clip(model_5b), torch.tensor([0.5, 1.0, 4.0])
    recipe = unwindowed(reference_weight=2.0, guidance_end=0.5, reference_prompt=reference_prompt)

    def ladder(strengths: Tensor) -> Tensor:
        x = torch.stack([editing.start_latents(recipe, clip.schedule, clip.states.__getitem__, s) for s in range(3)])
        texts = replace(clip.texts, strengths=strengths)
        return editing.edited(model_5b.velocity, x, texts, clip.states, clip.schedule, recipe, model_5b.layers)

    together, plain = ladder(strengths), clip.edit(recipe)
    assert (together[2] - plain[2]).abs().max() > 1e-3
    for i, strength in enumerate(strengths):
        alone = clip.edit(recipe.model_copy(update={"reference_weight": 2.0 / float(strength)}), slice(i, i + 1))
        assert (together[i] - alone[0]).abs().max() < 1e-4
    assert (ladder(torch.ones(3)) - plain).abs().max() < 1e-5


@pytest.mark.parametrize(
    "recipe",
    [
        unwindowed(),
        unwindowed(reference_end=1.0, reference_prompt="per_half"),
        unwindowed(reference_prompt="edit", start="noised", start_at=0.5, reference_end=1.0),
        unwindowed(guidance_scale=1.0, reference_start=0.5, reference_end=1.0),
        unwindowed(reference_weight=0.0),
        unwindowed(layer_start=0.5, layer_end=0.5),
        unwindowed(guidance_end=0.5, reference_prompt="per_half", reference_end=1.0),
    ],
)
def test_evaluations_are_as_announced(model_5b: VideoModel, recipe: RecipeSpec) -> None:
    """`edit_evaluations` counts exactly the rows that go through the transformer."""
    clip = Clip(model_5b)
    before = model_5b.evaluations
    clip.edit(recipe)
    assert model_5b.evaluations - before == editing.edit_evaluations(recipe, STEPS, 3, model_5b.layers)


def test_guidance_one_needs_no_unguided_rows(model_5b: VideoModel) -> None:
    """Guidance 1 gives what the guided formula gives at scale 1, at half the rows."""
    clip = Clip(model_5b)
    one = clip.edit(unwindowed(guidance_scale=1.0))
    almost = clip.edit(unwindowed(guidance_scale=1.0 + 1e-9))
    assert (one - almost).abs().max() < 1e-4


def test_seed_matters_to_its_own_edit_only(model_5b: VideoModel) -> None:
    """An edit from fresh noise depends on its own seed: rows of other seeds beside it change nothing."""
    clip = Clip(model_5b)
    recipe = unwindowed(start="fresh", reference_end=1.0)
    texts = editing.Texts(clip.texts.cond[:1].expand(2, -1, -1), clip.texts.uncond, clip.texts.reference)

    def edited(*seeds: int) -> Tensor:
        x = torch.stack([editing.start_latents(recipe, clip.schedule, clip.states.__getitem__, s) for s in seeds])
        *_, last = editing.edit(
            model_5b.velocity, x, texts, clip.states.__getitem__, clip.schedule, recipe, model_5b.layers
        )
        return last

    first, second = edited(2, 7), edited(2, 9)
    assert (first[0] - second[0]).abs().max() < 1e-5
    assert (first[1] - second[1]).abs().max() > 0.01


FRACTIONS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])


@given(
    st.sampled_from(["inverted", "noised", "fresh", "mixed"]),
    FRACTIONS,
    st.tuples(FRACTIONS, FRACTIONS),
    st.sampled_from([(0.0, 1.0), (0.5, 0.5)]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from(["off", "safe", "bold"]),
)
def test_levels_read_are_those_that_an_edit_asks_for(
    start: str,
    start_at: float,
    reference: tuple[float, float],
    layers: tuple[float, float],
    weight: float,
    cache: str,
) -> None:
    """Whatever the recipe: the announced levels are those the loop reads, each once, in order of first use."""
    start_at = min(start_at, max(reference) / 2)  # a window that ends before the first step is refused
    fields = {"start": start, "start_at": start_at, "reference_weight": weight, "cache": cache}
    fields |= dict(zip(("reference_start", "reference_end"), sorted(reference), strict=True))
    recipe = unwindowed(**fields | dict(zip(("layer_start", "layer_end"), layers, strict=True)))  # type: ignore[arg-type]
    levels, asked = range(13), []

    def state_at(level: int) -> Tensor:
        asked.append(level)
        return torch.zeros(1, 1, 1, 1)

    schedule = Schedule(tuple(level - 1 for level in levels), tuple(0.1 * level for level in levels))
    texts = editing.Texts(*(torch.zeros(rows, 1, 1) for rows in (2, 1, 1)))
    x = torch.stack([editing.start_latents(recipe, schedule, state_at, 0) for _ in range(2)])
    list(editing.edit(lambda x, t, text, reference=None: x, x, texts, state_at, schedule, recipe, 4))
    assert editing.levels_read(recipe, 12, 4) == list(dict.fromkeys(asked))


def test_starts_are_of_their_level(model_5b: VideoModel) -> None:
    """Below the top, the noised source has both its parts, mixed starts take their details from it, and fresh noise
    begins at the first step all the same."""
    clip = Clip(model_5b)
    noise = seeded_noise(clip.states[0].shape, 3)

    def start(kind: str) -> Tensor:
        recipe = unwindowed(start=kind, start_at=0.5)
        return editing.start_latents(recipe, clip.schedule, clip.states.__getitem__, 3)

    level = clip.schedule.level(editing.first_step(unwindowed(start_at=0.5), STEPS))
    source = noised(clip.states[0], noise, clip.schedule.thetas[level])
    assert 0 < level < STEPS and torch.equal(start("inverted"), clip.states[level])
    assert torch.equal(start("noised"), source) and torch.equal(start("fresh"), noise)
    assert torch.allclose(start("mixed"), editing.mixed(clip.states[level], source, 0.25))
    assert editing.first_step(unwindowed(start="fresh", start_at=0.5), STEPS) == 0
