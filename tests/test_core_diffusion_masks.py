"""Masks while denoising: what is outside stays, what is inside is as free as without, for each variant in small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvideo_core.diffusion import attention, editing, masks
from cogvideo_core.diffusion.ddim import Evaluated, drift
from cogvideo_core.diffusion.inversion import invert
from cogvideo_core.models import compiling
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import unwindowed
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import build, world

STEPS = 8
VARIANTS = ["2b", "5b", "1.5-5b", "5b-i2v", "1.5-5b-i2v"]
RECIPES = {
    "balanced": RecipeSpec(),
    "fresh noise": unwindowed(start="fresh", guidance_scale=3.0),
    "noised source, each step whole": RecipeSpec(start="noised", cache="off", sampler="ddim"),
}


class Clip:
    """One clip with stored states, its edits' prompts, and a mask for each of them."""

    def __init__(self, variant: str, edits: int = 2) -> None:
        self.model = VideoModel(build.build_pipeline(variant), ModelSpec())
        self.schedule, scene = self.model.schedule(STEPS), world.scene_from_seed(3)
        prompts = [scene.edited(colour=colour).combination.caption() for colour in list(world.COLOURS)[:edits]]
        text = self.model.embed([*prompts, "", scene.combination.caption()])
        self.texts = editing.Texts(text[:-2], text[-2:-1], text[-1:])
        frames = world.render(scene)
        image = self.model.encode_image(frames[0]) if self.model.image_to_video else None
        self.velocity = self.model.conditioned(image)
        # noised states: any trajectory will do, and these cost nothing
        self.states = list(
            invert(lambda x, t: x, self.model.encode(frames), self.schedule, InversionSpec(method="none"))
        )
        self.cells = torch.zeros(edits, *self.states[0][:, 0].shape)
        for edit, cells in enumerate(self.cells):
            cells[:, 2 : 6 + edit, 3:7] = 1
            cells[:, 6 + edit, 3:7] = 0.6

    def masked(self, cells: Tensor, recipe: RecipeSpec, attend: bool = True) -> masks.Masks:
        config = self.model.transformer_config
        tokens = masks.tokens_of(cells, config.patch_size, config.patch_size_t or 1) if attend else None
        return masks.Masks(cells, tokens, range(editing.first_step(recipe, STEPS), STEPS))

    def edit(self, recipe: RecipeSpec, mask: masks.Masks | None = None, rows: slice = slice(None)) -> Tensor:
        texts = replace(self.texts, cond=self.texts.cond[rows], masks=mask)
        seeds = list(range(len(self.texts.cond)))[rows]
        x = torch.stack([editing.start_latents(recipe, self.schedule, self.states.__getitem__, s) for s in seeds])
        return editing.edited(self.velocity, x, texts, self.states, self.schedule, recipe, self.model.layers)


@pytest.fixture(scope="module", params=VARIANTS)
def clip(request: pytest.FixtureRequest) -> Clip:
    return Clip(request.param)


@pytest.fixture(scope="module")
def clip_5b() -> Clip:
    return Clip("5b")


def test_a_full_mask_is_no_mask(clip: Clip) -> None:
    """Bit for bit, by attention and latents, with the second-order sampler and skipped steps of the default."""
    recipe = RECIPES["balanced"]
    full = clip.masked(torch.ones_like(clip.cells), recipe)
    assert torch.equal(clip.edit(recipe, full), clip.edit(recipe))


def test_an_empty_mask_is_the_stored_clip(clip: Clip) -> None:
    """Nothing may change: the clean latents are those of the trajectory, bit for bit."""
    recipe = RECIPES["balanced"]
    empty = clip.masked(torch.zeros_like(clip.cells), recipe)
    assert torch.equal(clip.edit(recipe, empty), clip.states[0].expand(2, *clip.states[0].shape))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_outside_is_the_stored_clip_inside_is_not(clip_5b: Clip, recipe: RecipeSpec) -> None:
    """From any start, cells of weight 0 end as they are stored, bit for bit; all others, the soft border among them,
    are changed."""
    clip = clip_5b
    found, outside = clip.edit(recipe, clip.masked(clip.cells, recipe)), clip.cells == 0
    stored = clip.states[0].expand_as(found)
    same = (found == stored).all(2)
    assert same[outside].all() and not same[~outside].any()


def test_edits_with_different_masks_are_independent(clip: Clip) -> None:
    """A batch whose edits have masks of their own equals its edits one by one, within float32 rounding."""
    recipe, mask = RECIPES["balanced"], clip.masked(clip.cells, RECIPES["balanced"])
    together = clip.edit(recipe, mask)
    for row in range(2):
        one = torch.zeros(2, dtype=torch.bool).index_fill(0, torch.tensor(row), True)
        alone = clip.edit(recipe, mask.of(one), slice(row, row + 1))
        assert (alone[0] - together[row]).abs().max() < 1e-4
        stored, outside = clip.states[0], clip.cells[row] == 0
        assert torch.equal((together[row] == stored).all(1), outside)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize(("variant", "cache"), [("5b", "safe"), ("1.5-5b-i2v", "bold")])
def test_compiled_blocks_edit_within_masks_the_same(variant: str, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked edits of text- and image-to-video models over a cache of steps equal the plain model's within 1e-4."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    plain, quick = Clip(variant), Clip(variant)
    quick.model = VideoModel(build.build_pipeline(variant), ModelSpec(compile="blocks"))
    image = quick.model.encode_image(world.render(world.scene_from_seed(3))[0]) if "i2v" in variant else None
    quick.velocity = quick.model.conditioned(image)
    recipe = RecipeSpec(cache=cache)
    mask = plain.masked(plain.cells, recipe)
    for given in (None, mask):
        assert (quick.edit(recipe, given) - plain.edit(recipe, given)).abs().max() < 1e-4
    torch._dynamo.reset()


def test_an_edit_that_leaves_takes_its_mask_along(clip_5b: Clip) -> None:
    """Those that stay in the batch go on with their own masks."""
    clip, recipe = clip_5b, RECIPES["balanced"]
    whole = clip.edit(recipe, clip.masked(clip.cells, recipe))
    texts = replace(clip.texts, masks=clip.masked(clip.cells, recipe))
    x = torch.stack([editing.start_latents(recipe, clip.schedule, clip.states.__getitem__, 0)] * 2)
    states = editing.edit(clip.velocity, x, texts, clip.states.__getitem__, clip.schedule, recipe, clip.model.layers)
    next(states)
    last = states.send(torch.tensor([False, True]))
    for last in states:  # noqa: B007
        pass
    assert (last - whole[1:]).abs().max() < 1e-4


def test_attention_by_mask_equals_its_plain_form() -> None:
    """A weight for each query: two parts equal concatenation, text and tokens inside have the recipe's weight, tokens
    outside the plain one."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 12, 16, generator=rng) for _ in range(3))
    k_ref, v_ref = (torch.randn(1, 2, 12, 16, generator=rng) for _ in range(2))
    cells = torch.zeros(2, 1, 2, 2)
    tokens = masks.Masks(cells, torch.tensor([[0.0] * 4 + [1.0] * 4, [1.0] * 8])).seen(text_tokens=4)
    reference = attention.Reference(1, range(1), 0.25, tokens=tokens, strengths=torch.tensor([1.0, 2.0]))
    weights = reference.log_weight
    assert weights.exp()[0].tolist() == pytest.approx([0.25] * 4 + [1.0] * 4 + [0.25] * 4)
    assert weights.exp()[1].tolist() == pytest.approx([0.125] * 12)
    plain = attention.attend_concatenated(q, k, v, k_ref, v_ref, weights)
    assert (attention.attend_in_two_parts(q, k, v, k_ref, v_ref, weights) - plain).abs().max() < 2e-6


def test_released_cells_have_no_drift() -> None:
    """In the cells that a step releases the step before shows no drift; elsewhere its velocity is unchanged."""
    rng = torch.Generator().manual_seed(1)
    x, v, x_now, v_now = (torch.randn(1, 2, 1, 3, 3, generator=rng) for _ in range(4))
    cells = torch.zeros_like(x, dtype=torch.bool)
    cells[..., 1] = True
    before, now = Evaluated(1.2, x, v), Evaluated(1.1, x_now, v_now)
    quiet = masks.without_drift(before, now, cells)
    assert drift(quiet, now)[cells].abs().max() < 1e-5
    assert torch.equal(quiet.v[~cells], v[~cells])


def test_a_border_joins_the_later_the_weaker_it_is() -> None:
    """Weight 1 is free from the first step, 0 never, and between them a larger weight never joins later."""
    cells = torch.linspace(0, 1, 11).reshape(1, 1, 1, 11)
    mask, taken = masks.Masks(cells, held=range(4, 20)), range(4, 20)
    free = torch.stack([mask.free(step, taken).flatten() for step in taken])
    assert free[:, -1].all() and not free[:, 0].any()
    joined = free.float().argmax(0)[1:]
    assert (joined.diff() <= 0).all() and len(set(joined.tolist())) == 10


class Read:
    """A trajectory that remembers which levels were asked for, each once."""

    def __init__(self, states: list[Tensor]) -> None:
        self.states, self.levels = states, list[int]()

    def __call__(self, level: int) -> Tensor:
        if level not in self.levels:
            self.levels.append(level)
        return self.states[level]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("held", [range(2, 8), range(3, 6), range(0)])
def test_levels_are_known_before(clip_5b: Clip, recipe: RecipeSpec, held: range) -> None:
    """Whatever is read is among `levels_read`, in its order; what is put back after a window ends is too."""
    clip, read = clip_5b, Read(clip_5b.states)
    mask = replace(clip.masked(clip.cells, recipe), held=held)
    x = torch.stack([editing.start_latents(recipe, clip.schedule, read, s) for s in range(2)])
    texts = replace(clip.texts, masks=mask)
    list(editing.edit(clip.velocity, x, texts, read, clip.schedule, recipe, clip.model.layers))
    known = editing.levels_read(recipe, STEPS, clip.model.layers, held)
    assert [level for level in known if level in read.levels] == read.levels


def test_a_window_of_steps_frees_what_is_outside(clip_5b: Clip) -> None:
    """Held in a part of the steps alone, what is outside is changed by the others."""
    clip, recipe = clip_5b, RECIPES["balanced"]
    mask = replace(clip.masked(clip.cells, recipe), held=range(2, 5))
    found = clip.edit(recipe, mask)
    assert not (found == clip.states[0]).all(2)[clip.cells == 0].any()


@pytest.mark.parametrize(("padding", "frames"), [(0, 9), (1, 9), (0, 17)])
def test_cells_follow_the_vae(padding: int, frames: int) -> None:
    """One pixel of one frame frees its cell in the latent frame that holds it: the first alone, then fours; padding
    in front goes with the first."""
    for frame in range(frames):
        pixels = torch.zeros(frames, 16, 24)
        pixels[frame, 5, 9] = 0.5
        cells, own = masks.cells_of(pixels, 4, padding), -(-frame // 4) + padding
        wanted = torch.zeros(padding + 1 + (frames - 1) // 4, 4, 6)
        wanted[own if frame else slice(0, own + 1), 1, 2] = 0.5
        assert torch.equal(cells, wanted)
        assert torch.equal(masks.cells_of(masks.pixels_of(cells, 4, padding), 4, padding), cells)


def test_tokens_are_in_the_transformers_order(clip: Clip) -> None:
    """A token's weight is the greatest of the cells whose change changes the token."""
    transformer = clip.model.transformer
    config: Any = clip.model.transformer_config
    shape = (1, clip.states[0].shape[0], config.in_channels, 12, 12)
    text = torch.zeros(1, config.max_text_seq_length, config.text_embed_dim)
    base = transformer.patch_embed(text, torch.zeros(shape))
    for place in [(0, 0, 0), (1, 4, 7), (shape[1] - 1, 11, 11)]:
        x, cells = torch.zeros(shape), torch.zeros(1, shape[1], 12, 12)
        x[0, place[0], :, place[1], place[2]] = 1
        cells[0, *place] = 1
        changed = (transformer.patch_embed(text, x) - base)[0, text.shape[1] :].abs().sum(-1) > 0
        assert torch.equal(masks.tokens_of(cells, config.patch_size, config.patch_size_t or 1)[0] > 0, changed)
