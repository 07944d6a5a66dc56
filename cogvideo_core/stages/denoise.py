"""A batch of edits of one clip and recipe, from start to clean latents, against the clip's stored states."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.masks import Masks
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.settings.specs import RecipeSpec
from cogvideo_core.stages import early, masks
from cogvideo_core.stages.encode import read_latents
from cogvideo_core.stages.prompts import embeddings
from cogvideo_core.stages.units import Edit, held_by
from cogvideo_core.stages.wishes import recipe_of
from cogvideo_core.stages.work import Record, Shared, Work
from cogvideo_core.storage.trajectories import Ahead

States = Generator[Tensor, Tensor | None, None]


class Asked(NamedTuple):
    """What a batch is denoised by: its recipe, the steps, and its prompts [E+2,S,D], the negative and the reference's
    last."""

    recipe: RecipeSpec
    schedule: Schedule
    text: Tensor


def asked_of(work: Work, record: Record, batch: Sequence[Edit]) -> Asked:
    recipe = recipe_of(work.recipe, batch[0])
    schedule = work.model.schedule(work.inversion.steps, work.inversion.spacing)
    reference = record["source_prompt"] if recipe.reference_prompt == "source" else record["inversion_prompt"]
    prompts = [edit["target_prompt"] for edit in batch] + [recipe.negative_prompt, reference]
    return Asked(recipe, schedule, embeddings(work.model, work.ledger, prompts))


def levels_of(work: Work, asked: Asked, masked: bool) -> list[int]:
    """The levels that a batch reads, in this order."""
    held = held_by(work.mask, asked.recipe, asked.schedule.steps) if masked else range(0)
    return editing.levels_read(asked.recipe, asked.schedule.steps, work.model.layers, held)


def begun(
    work: Work, batch: Sequence[Edit], asked: Asked, trajectory: editing.Trajectory, kept: Masks | None
) -> tuple[Tensor, editing.Texts]:
    """Start latents [E,f,C,h,w] on the model's device, and what the edits are given."""
    starts = [editing.start_latents(asked.recipe, asked.schedule, trajectory, edit["seed"]) for edit in batch]
    x = torch.stack(starts).to(work.model.device)
    given = {*asked.recipe.strengths, *(edit["strength"] for edit in batch)}
    strengths = None if given == {1.0} else torch.tensor([edit["strength"] for edit in batch]).to(x)
    text = asked.text
    return x, editing.Texts(text[:-2], text[-2:-1], text[-1:], strengths, kept)


def followed(work: Work, states: States, x: Tensor, asked: Asked, watch: early.Watch) -> Tensor:
    """Takes all steps from x [E,f,C,h,w]; edits that the watch gives up leave the batch. The clean latents of those
    that stay."""
    stay = None
    for step in range(editing.first_step(asked.recipe, asked.schedule.steps), asked.schedule.steps):
        after = states.send(stay)
        work.on_step("edit")
        stay = watch.look(step, x, after, asked.schedule)
        x = after if stay is None else after[stay.to(after.device)]
        if not watch.left:
            break
    return x


def denoise_batch(
    work: Work, record: Record, batch: Sequence[Edit], trajectory: editing.Trajectory, shared: Shared
) -> early.Denoised:
    """A batch of edits of a clip that is one window; hopeless ones leave it on the way."""
    asked, velocity = asked_of(work, record, batch), conditioned(work, record)
    watch = early.Watch(work, record, batch, asked.recipe, shared)
    masks.prepare(work, record, velocity, trajectory, shared)
    with Ahead(trajectory, levels_of(work, asked, bool(shared.masks))) as state_at:
        kept = masks.batch_masks(work, record, batch, asked.recipe, shared)
        x, texts = begun(work, batch, asked, state_at, kept)
        states = editing.edit(velocity, x, texts, state_at, asked.schedule, asked.recipe, work.model.layers)
        x = followed(work, states, x, asked, watch)
    return early.Denoised(watch.left, work.model.crossing(x), watch.stops, watch.early)


def conditioned(work: Work, record: Record) -> editing.RowVelocity:
    """The model's velocity. An image-to-video model's edit rows see the edited first frame, where there is one, and
    its reference rows the source's."""
    if not work.model.image_to_video:
        return work.model.velocity
    image_ref = read_latents(work, record["latents_key"])["image"]
    own = record["first_frame_key"]
    return work.model.conditioned(read_latents(work, own)["image"] if own else image_ref, image_ref)
