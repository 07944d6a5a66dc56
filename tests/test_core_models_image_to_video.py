"""Image-to-video models, on miniatures of 5B-I2V and 1.5-5B-I2V: sampled as by diffusers, edited as every other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from diffusers.pipelines.cogvideo import pipeline_cogvideox_image2video as theirs
from PIL import Image
from torch import Tensor

from cogvideo_core.diffusion import ddim, editing
from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.guidance import guide
from cogvideo_core.diffusion.inversion import invert
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import unwindowed
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import build, world

VARIANTS = ["5b-i2v", "1.5-5b-i2v"]
STEPS = 4
PROMPT = "a red circle moving left on a striped background"


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return VideoModel(build.build_pipeline(request.param), ModelSpec())


@pytest.fixture
def seen(model: VideoModel) -> Iterator[list[Tensor]]:
    """What the transformer is given, call by call."""
    inputs: list[Tensor] = []

    def note(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[1].clone())

    handle = model.transformer.patch_embed.register_forward_pre_hook(note)
    yield inputs
    handle.remove()


def frame(seed: int) -> np.ndarray:
    return world.render(world.scene_from_seed(seed))[0]


def test_sampling_equals_the_diffusers_pipeline(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image to video through our adapter and sampler equals the diffusers pipeline's whole call, within 1e-4.

    Theirs draws the image latents from the posterior; for this test it takes the mode, as ours always does.
    """
    monkeypatch.setattr(theirs, "retrieve_latents", partial(theirs.retrieve_latents, sample_mode="argmax"))
    steps, scale = 10, 3.0
    start = torch.randn(1, 3 + model.front_padding, 8, 12, 12, generator=torch.Generator().manual_seed(5))
    expected = model.pipe(
        image=Image.fromarray(frame(3)),
        prompt=PROMPT,
        height=48,
        width=48,
        num_frames=9,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=start.clone(),
        max_sequence_length=16,
        output_type="latent",
    ).frames
    text = model.embed(["", PROMPT])
    conditioned = model.conditioned(model.encode_image(frame(3)))

    def velocity(x: Tensor, t: int) -> Tensor:
        return guide(*conditioned(torch.cat([x, x]), t, text).chunk(2), scale)

    *_, last = ddim.sample(velocity, start, model.schedule(steps))
    assert (last - expected).abs().max() < 1e-4


def test_the_image_stands_at_latent_frame_0(
    model: VideoModel, seen: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers puts the image latents at latent frame 0 and zeros after it, for 1.5 too; ours are equal to its."""
    monkeypatch.setattr(theirs, "retrieve_latents", partial(theirs.retrieve_latents, sample_mode="argmax"))
    size = {"height": 48, "width": 48, "num_frames": 9, "num_inference_steps": 1, "max_sequence_length": 16}
    model.pipe(image=Image.fromarray(frame(3)), prompt=PROMPT, output_type="latent", guidance_scale=1.0, **size)
    ours = model.encode_image(frame(3))
    x = torch.zeros(1, 3 + model.front_padding, 8, 12, 12)
    model.conditioned(ours)(x, 500, model.embed([PROMPT]))
    given, own = (inputs[0, :, 8:] for inputs in seen)
    assert given.shape == own.shape and (given - own).abs().max() < 1e-5
    assert given[0].abs().max() > 0.1 and given[1:].abs().max() == 0


def test_image_latents_are_scaled_as_the_vae_says(model: VideoModel) -> None:
    """The mode times the scaling factor; divided by it where `invert_scale_latents` is set. Video latents: times."""
    pixels = torch.from_numpy(frame(4)).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    with torch.inference_mode():
        mode = model.pipe.vae.encode(pixels).latent_dist.mode()[0, :, 0]
    factor = 1 / 0.7 if model.pipe.vae.config.invert_scale_latents else 0.7
    assert torch.allclose(model.encode_image(frame(4)), mode * factor, atol=1e-6)
    assert torch.allclose(model.encode(frame(4)[None])[0], mode * 0.7, atol=1e-6)


class Clip:
    """One inverted clip, two prompts, and an edited first frame that is not the clip's own."""

    def __init__(self, model: VideoModel) -> None:
        frames = world.render(world.scene_from_seed(0))
        self.model, self.schedule = model, model.schedule(STEPS)
        self.image_ref, self.image = model.encode_image(frames[0]), model.encode_image(frame(9))
        text = model.embed([PROMPT, "a blue square", "", "a green circle"])
        self.texts = editing.Texts(text[:2], text[2:3], text[3:])
        velocity = model.one_row(text[3:], self.image_ref)
        self.states = list(invert(velocity, model.encode(frames), self.schedule, InversionSpec(method="fixed_point")))

    def edit(self, recipe: RecipeSpec) -> Tensor:
        x, velocity = self.states[-1].repeat(2, 1, 1, 1, 1), self.model.conditioned(self.image, self.image_ref)
        trajectory = self.states.__getitem__
        *_, last = editing.edit(velocity, x, self.texts, trajectory, self.schedule, recipe, self.model.layers)
        return last


def plain_edit(clip: Clip, recipe: RecipeSpec, edit: int) -> Tensor:
    """One edit, spelled out: a reference row of its own for each half, both rows' channels joined by hand."""
    x, model = clip.states[-1][None], clip.model
    for step in range(STEPS):
        level, halves = clip.schedule.level(step), []
        for text in (clip.texts.uncond, clip.texts.cond[edit : edit + 1]):
            rows = torch.cat([clip.states[level][None], x])
            images = torch.zeros_like(rows)
            images[:, 0] = torch.stack([clip.image_ref, clip.image])
            joined, layers = torch.cat([rows, images], dim=2), range(round(recipe.layer_end * model.layers))
            halves.append(edit_row(clip, joined, clip.schedule.timesteps[level], text, layers))
        v = guide(*halves, recipe.guidance_scale)
        x = ddim.ddim_step(x, v, clip.schedule.thetas[level], clip.schedule.thetas[level - 1])
    return x[0]


@torch.inference_mode()
def edit_row(clip: Clip, rows: Tensor, t: int, text: Tensor, layers: range) -> Tensor:
    """The velocity of the second of two rows, from the transformer itself."""
    model = clip.model
    return model.transformer(
        hidden_states=rows,
        encoder_hidden_states=torch.cat([clip.texts.reference, text]),
        timestep=torch.full((2,), t),
        ofs=None if model.transformer.ofs_embedding is None else torch.full((1,), 2.0),
        image_rotary_emb=model._rotary(rows.shape[1], 12, 12),
        attention_kwargs={"reference": Reference(1, layers)},
    ).sample[-1:]


@pytest.mark.parametrize("layer_end", [1.0, 0.5])
def test_shared_reference_equals_duplicated(model: VideoModel, layer_end: float) -> None:
    """One reference row, with the source's image, for two edits with another one: as a row for each edit and half."""
    clip, recipe = Clip(model), unwindowed(reference_end=1.0, layer_end=layer_end)
    together = clip.edit(recipe)
    for edit in range(2):
        assert (together[edit] - plain_edit(clip, recipe, edit)).abs().max() < 1e-4


def test_an_edited_first_frame_reaches_edit_rows_only(model: VideoModel, seen: list[Tensor]) -> None:
    """Edit rows, guided or not, carry the edited frame; reference rows and the inversion carry the source's."""
    clip = Clip(model)
    assert all(torch.equal(inputs[:, 0, 8:], clip.image_ref[None]) for inputs in seen)
    seen.clear()
    clip.edit(unwindowed(reference_end=0.5))
    assert [len(inputs) for inputs in seen] == [5, 5, 4, 4]
    for inputs in seen:
        expected = [clip.image_ref] * (len(inputs) - 4) + [clip.image] * 4
        assert torch.equal(inputs[:, 0, 8:], torch.stack(expected))
        assert not inputs[:, 1:, 8:].any()


def test_the_first_frame_steers_the_edit(model: VideoModel) -> None:
    """Another first frame gives another edit; the source's own gives what no first frame gives."""
    clip, recipe = Clip(model), unwindowed()
    edited, clip.image = clip.edit(recipe), clip.image_ref
    own = clip.edit(recipe)
    assert (edited - own).abs().max() > 1e-3
    assert torch.equal(own, clip.edit(recipe))
