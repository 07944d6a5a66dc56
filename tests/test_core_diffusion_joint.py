"""Long clips edited as one: against `editing.edit` and windows apart, on small models of the released variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pytest
import torch
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.inversion import invert
from cogvideo_core.diffusion.joint import Windows, denoise_jointly, edit_jointly, edited_jointly
from cogvideo_core.diffusion.masks import Masks, tokens_of
from cogvideo_core.diffusion.progress import Progress
from cogvideo_core.diffusion.sliding import Carried, Sliding, edit_sliding
from cogvideo_core.diffusion.windows import Layout, layout_of
from cogvideo_core.errors import BadSpec
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import build, world

STEPS, WINDOW = 6, 9
INVERTED: dict[tuple[int, int, int], list[list[Tensor]]] = {}  # the models live as long as the module's tests
VARIANTS = ["5b", "2b", "1.5-5b"]


@cache
def built(variant: str) -> VideoModel:
    return VideoModel(build.build_pipeline(variant), ModelSpec())


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return built(request.param)


@pytest.fixture(scope="module", params=["5b", "1.5-5b"])
def single_or_pairs(request: pytest.FixtureRequest) -> VideoModel:
    return built(request.param)


@pytest.fixture(scope="module")
def model_5b() -> VideoModel:
    return built("5b")


@dataclass
class Long:
    """A clip of several windows, inverted window by window, and the prompts of its edits."""

    model: VideoModel
    frames: int = 17
    overlap: int = 1
    edits: int = 2
    images: Sequence[Tensor] = ()

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.frames, WINDOW, self.overlap, pair=self.model.front_padding + 1)

    @cached_property
    def texts(self) -> editing.Texts:
        scene = world.scene_from_seed(0)
        prompts = [scene.edited(colour=colour).combination.caption() for colour in list(world.COLOURS)[: self.edits]]
        text = self.model.embed([*prompts, "", scene.combination.caption()])
        return editing.Texts(text[:-2], text[-2:-1], text[-1:])

    @cached_property
    def latents(self) -> Tensor:
        frames = np.concatenate([world.render(world.scene_from_seed(seed)) for seed in range(6)])[: self.layout.frames]
        return self.model.encode(frames)

    @cached_property
    def states(self) -> list[list[Tensor]]:
        """Of each window, by level."""
        key = id(self.model), self.frames, self.overlap
        if key not in INVERTED:
            schedule, spec = self.model.schedule(STEPS), InversionSpec(first_iterations=1)
            velocities = [self.model.one_row(self.texts.reference, image) for image in self.images or [None] * 9]
            parts = [self.layout.of(self.latents, window) for window in range(len(self.layout))]
            INVERTED[key] = [list(invert(*each, schedule, spec)) for each in zip(velocities, parts, strict=False)]
        return INVERTED[key]

    @cached_property
    def windows(self) -> Windows:
        velocities = [self.model.velocity] * len(self.layout)
        if self.images:
            velocities = [self.model.conditioned(image) for image in self.images[: len(self.layout)]]
        return Windows(self.layout, velocities, [states.__getitem__ for states in self.states])

    def start(self, recipe: RecipeSpec, seeds: range) -> Tensor:
        schedule = self.model.schedule(STEPS)
        return torch.stack([editing.start_latents(recipe, schedule, self.windows.state, seed) for seed in seeds])

    def edited(self, recipe: RecipeSpec, rows: slice = slice(None)) -> Tensor:
        texts = replace(self.texts, cond=self.texts.cond[rows])
        x = self.start(recipe, range(self.edits)[rows])
        return edited_jointly(self.windows, x, texts, self.model.schedule(STEPS), recipe, self.model.layers)

    def apart(self, recipe: RecipeSpec, window: int) -> Tensor:
        """A window edited by itself, from its own trajectory."""
        state, schedule = self.windows.trajectories[window], self.model.schedule(STEPS)
        x = torch.stack([editing.start_latents(recipe, schedule, state, seed) for seed in range(self.edits)])
        return editing.edited(
            self.windows.velocities[window], x, self.texts, self.states[window], schedule, recipe, self.model.layers
        )


def test_one_window_is_an_ordinary_edit(model: VideoModel) -> None:
    """A clip of one window is edited as `editing.edit` does, bit for bit, on every variant, in both orders of work."""
    clip = Long(model, frames=WINDOW)
    assert len(clip.layout) == 1
    assert torch.equal(clip.edited(RecipeSpec()), clip.apart(RecipeSpec(), 0))
    assert torch.equal(slid(clip, RecipeSpec()), clip.apart(RecipeSpec(), 0))


@pytest.mark.parametrize("start", ["fresh", "noised", "mixed"])
def test_one_window_is_an_ordinary_edit_from_every_start(model_5b: VideoModel, start: str) -> None:
    """And with guidance that is taken apart and rescaled, and matched statistics."""
    clip = Long(model_5b, frames=WINDOW)
    more = {"guidance_rescale": 0.5, "guidance_parallel": 0.5, "match_statistics": 0.5}
    recipe = RecipeSpec(start=start, **more)
    assert torch.equal(clip.edited(recipe), clip.apart(recipe, 0))


def test_without_overlap_windows_are_edited_apart(model_5b: VideoModel) -> None:
    """With overlap 0 each window is what it is by itself, bit for bit."""
    clip = Long(model_5b, frames=21, overlap=0)
    assert clip.layout.places == (0, 3)
    together = clip.edited(RecipeSpec())
    for window, at in enumerate(clip.layout.slices()):
        assert torch.equal(together[:, at], clip.apart(RecipeSpec(), window))


def test_edits_do_not_depend_on_their_batch(model: VideoModel) -> None:
    """A batch of edits is what each of them is alone, within 1e-4, on every variant."""
    clip = Long(model)
    together = clip.edited(RecipeSpec())
    for edit in range(clip.edits):
        alone = clip.edited(RecipeSpec(), slice(edit, edit + 1))
        assert (together[edit] - alone[0]).abs().max() < 1e-4


def test_windows_that_share_latents_differ_from_windows_apart(model_5b: VideoModel) -> None:
    """Joint editing does something: with an overlap the windows' own answers on shared latent frames differ, and the
    joint one is neither."""
    clip = Long(model_5b)
    together, apart = clip.edited(RecipeSpec()), [clip.apart(RecipeSpec(), w) for w in range(2)]
    assert clip.layout.places == (0, 2)
    assert all((together[:, 2] - one).abs().max() > 1e-3 for one in (apart[0][:, 2], apart[1][:, 0]))


def slid(clip: Long, recipe: RecipeSpec, stored: bool = False) -> Tensor:
    """The clip's edits window after window; `stored`: what is carried goes through a file's names each time."""
    sliding = Sliding(clip.windows, clip.texts, clip.model.schedule(STEPS), recipe, clip.model.layers)
    x = clip.start(recipe, range(clip.edits))
    if not stored:
        return torch.cat(list(edit_sliding(sliding, x)), dim=1)
    carried, found = Carried(), []
    for window in range(len(clip.layout)):
        left = Carried()
        *_, clean = sliding.states(window, clip.layout.of(x, window), carried, left)
        found.append(sliding.finished(window, clean))
        carried = Carried.of_tensors(left.tensors())
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("anchor", ["none", "first"])
def test_sliding_is_near_to_all_at_once(model_5b: VideoModel, anchor: str) -> None:
    """Window after window gives nearly what all at once give: the difference is less than half of what the overlap
    itself changes."""
    clip, recipe = Long(model_5b, frames=25, overlap=2), RecipeSpec(anchor=anchor)
    together, apart = clip.edited(recipe), slid(clip, recipe)
    assert together.shape == apart.shape
    alone = torch.cat([clip.apart(recipe, 0)[:, : clip.layout.places[1]], clip.apart(recipe, 1)], dim=1)
    count = alone.shape[1]
    assert (together - apart)[:, :count].abs().mean() < 0.5 * (together[:, :count] - alone).abs().mean()


def test_sliding_without_overlap_is_all_at_once(model_5b: VideoModel) -> None:
    """Bit for bit: nothing is shared."""
    clip = Long(model_5b, frames=21, overlap=0)
    assert torch.equal(slid(clip, RecipeSpec()), clip.edited(RecipeSpec()))


@pytest.mark.parametrize("anchor", ["previous", "first"])
def test_what_is_carried_may_be_stored(model_5b: VideoModel, anchor: str) -> None:
    """Between windows all that is carried may go through a file: the result is the same, bit for bit."""
    clip, recipe = Long(model_5b, frames=25), RecipeSpec(anchor=anchor)
    assert torch.equal(slid(clip, recipe), slid(clip, recipe, stored=True))


@pytest.mark.parametrize("cache", ["off", "safe"])
@pytest.mark.parametrize("masked", [False, True])
def test_an_edit_goes_on_from_any_step(model_5b: VideoModel, cache: str, masked: bool) -> None:
    """Progress after each step, through a file's names, leads to the same clean latents, bit for bit."""
    clip, recipe = Long(model_5b), RecipeSpec(cache=cache)
    texts = replace(clip.texts, masks=masks_of(clip)) if masked else clip.texts
    given = clip.windows, clip.start(recipe, range(2)), texts, clip.model.schedule(STEPS), recipe, 2
    run = list(denoise_jointly(*given))
    for progress in run[:-1]:
        again = Progress.of_tensors(progress.tensors())
        *_, last = denoise_jointly(given[0], again, *given[2:])
        assert torch.equal(last.x, run[-1].x)


def masks_of(clip: Long, tokens: bool = True) -> Masks:
    """The left half may change, in the first latent frames more and more."""
    cells = torch.zeros(clip.edits, clip.layout.latents, 12, 12)
    cells[..., :6] = torch.linspace(0.5, 1, clip.layout.latents)[:, None, None]
    seen = tokens_of(cells, 2, clip.layout.pair) if tokens else None
    return Masks(cells, seen, range(1, STEPS))


def test_outside_a_mask_the_clip_is_kept(single_or_pairs: VideoModel) -> None:
    """A mask of the whole clip: where it is 0 the clean latents are the clip's, bit for bit, in both orders of work."""
    clip, recipe = Long(single_or_pairs), RecipeSpec()
    clip.texts = replace(clip.texts, masks=masks_of(clip))
    outside = clip.windows.state(0)[..., 6:].expand(2, -1, -1, -1, -1)
    for found in (clip.edited(recipe), slid(clip, recipe)):
        assert torch.equal(found[..., 6:], outside)
        assert not torch.equal(found[..., :6], clip.windows.state(0)[..., :6].expand_as(found[..., :6]))


def test_a_mask_that_allows_everything_changes_nothing(single_or_pairs: VideoModel) -> None:
    """Masks of ones, tokens included: the edit without masks, bit for bit but for the weights' form."""
    clip, recipe = Long(single_or_pairs), RecipeSpec()
    plain, masks = clip.edited(recipe), masks_of(clip)
    clip.texts = replace(
        clip.texts, masks=Masks(*(torch.ones_like(x) for x in (masks.cells, masks.tokens)), masks.held)
    )
    assert (clip.edited(recipe) - plain).abs().max() < 1e-4


def test_windows_that_share_a_call_are_as_apart(single_or_pairs: VideoModel) -> None:
    """Windows in one call, with a reference for each row, strengths and anchors: as one at a time."""
    for recipe in (RecipeSpec(reference_prompt="per_half"), RecipeSpec(anchor="previous")):
        clip = Long(single_or_pairs, frames=25)
        clip.texts = replace(clip.texts, strengths=torch.tensor([0.5, 2.0]))
        apart = clip.edited(recipe)
        clip.windows = replace(clip.windows, at_once=3)
        assert (clip.edited(recipe) - apart).abs().max() < 1e-4, recipe.reference_prompt


def test_anchors_are_seen(single_or_pairs: VideoModel) -> None:
    """With anchors later windows change, and the first, which has none, only where they overlap; nearly no weight is
    nearly no anchor."""
    clip = Long(single_or_pairs, frames=25, overlap=0)
    plain, little, seen = (
        clip.edited(RecipeSpec(anchor=anchor, anchor_weight=weight))
        for anchor, weight in (("none", 1.0), ("first", 1e-6), ("first", 1.0))
    )
    at = clip.layout.places[1]
    assert torch.equal(plain[:, :at], seen[:, :at])
    assert (little - plain).abs().max() < 1e-3 < (seen - plain)[:, at:].abs().max()


def test_anchors_within_masks_are_refused(model_5b: VideoModel) -> None:
    """One sentence names the field."""
    clip = Long(model_5b)
    clip.texts = replace(clip.texts, masks=masks_of(clip))
    with pytest.raises(BadSpec, match=r"field recipe.anchor.*masks"):
        clip.edited(RecipeSpec(anchor="first"))


def test_edits_leave_the_batch(model_5b: VideoModel) -> None:
    """A mask that is sent back drops edits; the others are what they are alone."""
    clip, recipe = Long(model_5b), RecipeSpec()
    given = clip.start(recipe, range(2)), clip.texts, clip.model.schedule(STEPS), recipe, clip.model.layers
    run = edit_jointly(clip.windows, *given)
    next(run)
    x = run.send(torch.tensor([False, True]))
    for x in run:
        assert len(x) == 1
    assert (x[0] - clip.edited(recipe, slice(1, 2))[0]).abs().max() < 1e-4


@pytest.mark.parametrize("variant", ["5b-i2v", "1.5-5b-i2v"])
def test_image_to_video_windows_have_images_of_their_own(variant: str) -> None:
    """Each window of an image-to-video model is given its own image, and one window is an ordinary edit."""
    model = VideoModel(build.build_pipeline(variant), ModelSpec())
    images = [model.encode_image(world.render(world.scene_from_seed(seed))[0]) for seed in (1, 2)]
    one, two = (Long(model, frames=frames, images=images) for frames in (9, 17))
    assert torch.equal(one.edited(RecipeSpec()), one.apart(RecipeSpec(), 0))
    swapped = replace(two.windows, velocities=two.windows.velocities[::-1])
    given = two.start(RecipeSpec(), range(2)), two.texts, model.schedule(STEPS), RecipeSpec(), model.layers
    assert (edited_jointly(two.windows, *given) - edited_jointly(swapped, *given)).abs().max() > 1e-3
    with pytest.raises(BadSpec, match=r"recipe.anchor: an image-to-video model"):
        two.edited(RecipeSpec(anchor="first"))
