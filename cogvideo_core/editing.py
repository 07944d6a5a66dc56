"""Editing: denoise many edits of one clip while every block also sees the stored trajectory at the same noise level.

Rows of one transformer call: [reference | edits without prompt | edits with prompt]. How many distinct reference rows
there are follows from the recipe: the inversion's or the source's prompt gives one for all edits and both halves;
`edit` one per edit; `per_half` one per edit and half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cogvideo_core.attention import Reference
from cogvideo_core.ddim import ddim_step, noised
from cogvideo_core.guidance import guide, is_guided
from cogvideo_core.inversion import seeded_noise
from cogvideo_core.schedule import Schedule
from cogvideo_core.specs import RecipeSpec


class RowVelocity(Protocol):
    """velocity(x [R,f,C,h,w], t, text [R,S,D], reference) -> v [R,f,C,h,w], reference rows first if there are any."""

    def __call__(self, x: Tensor, t: int, text: Tensor, reference: Reference | None = None) -> Tensor: ...


Trajectory = Callable[[int], Tensor]
"""trajectory(level) -> the reference's state [f,C,h,w] at that level."""


@dataclass(frozen=True)
class Texts:
    """Prompt embeddings of one batch of edits; E edits, S text tokens, D wide."""

    cond: Tensor  # [E,S,D] target prompts
    uncond: Tensor  # [1,S,D] negative prompt
    reference: Tensor  # [1,S,D] inversion or source prompt


def window(start: float, end: float, count: int) -> range:
    """The indices of `count` things that lie in the fractions [start, end)."""
    return range(round(start * count), round(end * count))


def first_step(recipe: RecipeSpec, schedule: Schedule) -> int:
    """The step an edit begins with; at least one is taken."""
    return min(round(recipe.start_at * schedule.steps), schedule.steps - 1)


def start_latents(recipe: RecipeSpec, schedule: Schedule, trajectory: Trajectory, seed: int) -> Tensor:
    """Where an edit starts: [f,C,h,w] float32 at the level of its first step. Depends on its own seed alone."""
    level = schedule.level(first_step(recipe, schedule))
    if recipe.start == "inverted":
        return trajectory(level).float()
    source = trajectory(0).float()
    noise = seeded_noise(source.shape, seed).to(source.device)
    if recipe.start == "noised":
        return noised(source, noise, schedule.thetas[level])
    return noise


def reference_texts(recipe: RecipeSpec, texts: Texts, guided: bool) -> Tensor:
    """Prompts of the reference rows: [1,S,D], [E,S,D] or [2E,S,D]."""
    if recipe.reference_prompt == "edit":
        return texts.cond
    if recipe.reference_prompt == "per_half":
        return torch.cat([texts.uncond.expand_as(texts.cond), texts.cond]) if guided else texts.cond
    return texts.reference


def predict(
    velocity: RowVelocity,
    x: Tensor,
    t: int,
    texts: Texts,
    recipe: RecipeSpec,
    x_ref: Tensor | None,
    layers: range,
) -> Tensor:
    """Guided velocity of E edits: x [E,f,C,h,w] -> [E,f,C,h,w]. `x_ref` [f,C,h,w] is None outside the window."""
    guided = is_guided(recipe.guidance_scale)
    rows = torch.cat([x, x]) if guided else x
    text = torch.cat([texts.uncond.expand_as(texts.cond), texts.cond]) if guided else texts.cond
    if x_ref is None:
        v = velocity(rows, t, text, None)
    else:
        text_ref = reference_texts(recipe, texts, guided)
        n = len(text_ref)
        reference = Reference(n, layers, recipe.reference_weight)
        joined = torch.cat([x_ref.expand(n, *x_ref.shape), rows])
        v = velocity(joined, t, torch.cat([text_ref, text]), reference)[n:]
    if not guided:
        return v
    v_uncond, v_cond = v.chunk(2)
    return guide(v_uncond, v_cond, recipe.guidance_scale)


def edit(
    velocity: RowVelocity,
    x: Tensor,
    texts: Texts,
    trajectory: Trajectory,
    schedule: Schedule,
    recipe: RecipeSpec,
    layer_count: int,
) -> Iterator[Tensor]:
    """Denoises x [E,f,C,h,w] (float32, from `start_latents`); yields the state after each step, the clean one last.

    Explicit start latents and an explicit trajectory: nothing here draws noise or reads a store. At the step that
    starts from level j the reference rows are the stored state of level j; outside the window there are none.
    """
    steps = window(recipe.reference_start, recipe.reference_end, schedule.steps)
    layers = window(recipe.layer_start, recipe.layer_end, layer_count)
    for step in range(first_step(recipe, schedule), schedule.steps):
        level = schedule.level(step)
        on = step in steps and len(layers) > 0 and recipe.reference_weight > 0
        x_ref = trajectory(level).to(x) if on else None
        v = predict(velocity, x, schedule.timesteps[level], texts, recipe, x_ref, layers)
        x = ddim_step(x, v, schedule.thetas[level], schedule.thetas[level - 1])
        yield x


def edit_evaluations(recipe: RecipeSpec, schedule_steps: int, edits: int, layer_count: int) -> int:
    """Rows through the transformer that `edits` edits in one batch cost."""
    first = min(round(recipe.start_at * schedule_steps), schedule_steps - 1)
    halves = 2 if is_guided(recipe.guidance_scale) else 1
    steps = window(recipe.reference_start, recipe.reference_end, schedule_steps)
    seen = recipe.reference_weight > 0 and len(window(recipe.layer_start, recipe.layer_end, layer_count)) > 0
    guided_steps = sum(step >= first for step in steps) if seen else 0
    per_step = {"edit": edits, "per_half": halves * edits}.get(recipe.reference_prompt, 1)
    return (schedule_steps - first) * halves * edits + guided_steps * per_step
