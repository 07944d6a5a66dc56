"""Long clips edited as one: against `editing.edit` and windows apart, on small models of the released variants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.inversion import invert
from cogvideo_core.diffusion.joint import Windows, edited_jointly
from cogvideo_core.diffusion.windows import Layout, layout_of
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import build, world

STEPS, WINDOW = 6, 9
VARIANTS = ["5b", "2b", "1.5-5b"]


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return VideoModel(build.build_pipeline(request.param), ModelSpec())


@pytest.fixture(scope="module")
def model_5b() -> VideoModel:
    return VideoModel(build.build_pipeline("5b"), ModelSpec())


@dataclass
class Long:
    """A clip of several windows, inverted window by window, and the prompts of its edits."""

    model: VideoModel
    frames: int = 17
    overlap: int = 1
    edits: int = 2

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
        velocity, schedule = self.model.one_row(self.texts.reference), self.model.schedule(STEPS)
        parts = [self.layout.of(self.latents, window) for window in range(len(self.layout))]
        return [list(invert(velocity, part, schedule, InversionSpec(first_iterations=4))) for part in parts]

    @cached_property
    def windows(self) -> Windows:
        velocities = [self.model.velocity] * len(self.layout)
        return Windows(self.layout, velocities, [states.__getitem__ for states in self.states])

    def start(self, recipe: RecipeSpec, seeds: range) -> Tensor:
        schedule = self.model.schedule(STEPS)
        return torch.stack([editing.start_latents(recipe, schedule, self.windows.state, seed) for seed in seeds])

    def edited(self, recipe: RecipeSpec, rows: slice = slice(None)) -> Tensor:
        texts = editing.Texts(self.texts.cond[rows], self.texts.uncond, self.texts.reference)
        x = self.start(recipe, range(self.edits)[rows])
        return edited_jointly(self.windows, x, texts, self.model.schedule(STEPS), recipe, self.model.layers)

    def apart(self, recipe: RecipeSpec, window: int) -> Tensor:
        """A window edited by itself, from its own trajectory."""
        state, schedule = self.windows.trajectories[window], self.model.schedule(STEPS)
        x = torch.stack([editing.start_latents(recipe, schedule, state, seed) for seed in range(self.edits)])
        return editing.edited(
            self.model.velocity, x, self.texts, self.states[window], schedule, recipe, self.model.layers
        )


@pytest.mark.parametrize("start", ["inverted", "fresh", "noised", "mixed"])
def test_one_window_is_an_ordinary_edit(model: VideoModel, start: str) -> None:
    """A clip of one window is edited as `editing.edit` does, bit for bit, from every start, on every variant."""
    clip, recipe = Long(model, frames=WINDOW), RecipeSpec(start=start)
    assert len(clip.layout) == 1
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
