"""Editing: denoise many edits of one clip while every block also sees the stored trajectory at the same noise level.

Rows of one transformer call: [reference | edits without prompt | edits with prompt]. The recipe's `reference_prompt`
sets how many distinct reference rows there are: `inversion` and `source` give one for all edits and both halves,
`edit` one per edit, `per_half` one per edit and half.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.fft import fft2, fftfreq, ifft2

from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.ddim import Evaluated, noised, pred_x0, second_order_step
from cogvideo_core.diffusion.guidance import (
    guide,
    guide_apart,
    guided_steps,
    rescaled,
    scale_at,
    weight_at,
    window,
    with_statistics,
)
from cogvideo_core.diffusion.inversion import seeded_noise
from cogvideo_core.diffusion.masks import Keeping, Masks
from cogvideo_core.diffusion.progress import Progress
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.diffusion.skipping import Halves, Whole, extrapolated
from cogvideo_core.diffusion.steps import computed_steps as computed_steps
from cogvideo_core.diffusion.steps import edit_evaluations as edit_evaluations
from cogvideo_core.diffusion.steps import first_step as first_step
from cogvideo_core.diffusion.steps import joint_evaluations as joint_evaluations
from cogvideo_core.diffusion.steps import levels_read as levels_read
from cogvideo_core.diffusion.steps import referenced_steps as referenced_steps
from cogvideo_core.diffusion.steps import taken_steps as taken_steps
from cogvideo_core.settings.specs import RecipeSpec


class RowVelocity(Protocol):
    """velocity(x [R,f,C,h,w], t, text [R,S,D], reference) -> v [R,f,C,h,w], reference rows first if there are any."""

    def __call__(self, x: Tensor, t: int, text: Tensor, reference: Reference | None = None) -> Tensor: ...


Trajectory = Callable[[int], Tensor]
"""trajectory(level) -> the reference's state [f,C,h,w] at that level."""


@dataclass(frozen=True)
class Texts:
    """What the edits of one batch are given: prompt embeddings, E edits, S text tokens, D wide; strengths; masks."""

    cond: Tensor  # [E,S,D] target prompts
    uncond: Tensor  # [1,S,D] negative prompt
    reference: Tensor  # [1,S,D] inversion or source prompt
    strengths: Tensor | None = None  # [E], each divides the reference weight; None: 1 for all
    masks: Masks | None = None  # None: each edit may change all of the clip

    def of(self, chosen: Tensor) -> Texts:
        """Those of the edits that `chosen` [E] marks."""
        strengths = None if self.strengths is None else self.strengths[chosen.to(self.strengths.device)]
        masks = None if self.masks is None else self.masks.of(chosen)
        return replace(self, cond=self.cond[chosen.to(self.cond.device)], strengths=strengths, masks=masks)


class Referred(NamedTuple):
    """What the edits of one step attend to: a stored state [f,C,h,w], in which layers, and with what weight.

    Or K states [K,f,C,h,w], where edits follow each other in rounds of K and see one each.
    anchors: of each edit a state [E,f,C,h,w] in another window, and that window's own `state`.
    """

    state: Tensor
    layers: range
    weight: float
    anchors: tuple[Tensor, Tensor] | None = None


def repeated(states: Tensor, count: int) -> Tensor:
    """So many reference rows of a state [f,C,h,w] or of several [K,f,C,h,w]."""
    states = states if states.ndim == 5 else states[None]
    return states.repeat(count // len(states), 1, 1, 1, 1)


class Asked(NamedTuple):
    """What a whole step asks of the model: at which level and timestep, guided or not, in which layers the reference is
    seen and with what weight; None outside its window."""

    level: int
    t: int
    guided: bool
    layers: range
    weight: float | None


Predictor = Callable[[Tensor, "Texts", Asked], Halves]
"""predictor(x [E,f,C,h,w], texts, asked) -> velocities of these edits without and with their prompts."""


def start_latents(recipe: RecipeSpec, schedule: Schedule, trajectory: Trajectory, seed: int) -> Tensor:
    """Where an edit starts: [f,C,h,w] float32 at the level of its first step. Depends on its own seed alone."""
    level = schedule.level(first_step(recipe, schedule.steps))
    if recipe.start == "inverted":
        return trajectory(level).float()
    source = trajectory(0).float()
    noise = seeded_noise(source.shape, seed).to(source.device)
    if recipe.start == "fresh":
        return noise
    start = noised(source, noise, schedule.thetas[level])
    return start if recipe.start == "noised" else mixed(trajectory(level).float(), start, recipe.mix_cutoff)


def mixed(low: Tensor, high: Tensor, cutoff: float) -> Tensor:
    """The spatial frequencies of `low` below `cutoff` (cycles a cell) and those of `high` above it; [...,h,w].

    Source: arXiv 2312.07537 (FreeInit), over space alone.
    """
    height, width = low.shape[-2:]
    radius = torch.hypot(fftfreq(height, device=low.device)[:, None], fftfreq(width, device=low.device)[None])
    return ifft2(torch.where(radius < cutoff, fft2(low), fft2(high))).real


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
    guided: bool,
    recipe: RecipeSpec,
    referred: Referred | None,
) -> Halves:
    """Velocities of E edits without and with their prompts, [E,f,C,h,w] each; the first is None where not guided.

    `referred` is None outside the reference's window.
    """
    rows = torch.cat([x, x]) if guided else x
    text = torch.cat([texts.uncond.expand_as(texts.cond), texts.cond]) if guided else texts.cond
    if referred is None:
        v = velocity(rows, t, text, None)
    else:
        text_ref = reference_texts(recipe, texts, guided)
        n = len(text_ref)
        each = texts.strengths
        each = each.repeat(2) if each is not None and guided else each
        tokens = texts.masks.seen(text.shape[1]) if texts.masks else None
        tokens = tokens.repeat(2, 1) if tokens is not None and guided else tokens
        reference = Reference(n, referred.layers, referred.weight, recipe.reference_text, each, tokens)
        joined, prompts = torch.cat([repeated(referred.state, n), rows]), torch.cat([text_ref, text])
        if referred.anchors is not None:
            x_anchor, state_anchor = referred.anchors
            anchors = torch.cat([repeated(state_anchor, n), torch.cat([x_anchor, x_anchor]) if guided else x_anchor])
            reference = replace(reference, rows=n + len(anchors), anchor=recipe.anchor_weight)
            joined, prompts = torch.cat([anchors, joined]), prompts.repeat(2, 1, 1)
        v = velocity(joined, t, prompts, reference)[reference.rows :]
    if not guided:
        return None, v
    v_uncond, v_cond = v.chunk(2)
    return v_uncond, v_cond


def guided_velocity(
    v_uncond: Tensor | None, v_cond: Tensor, x: Tensor, theta: float, scale: float, recipe: RecipeSpec
) -> Tensor:
    """The velocity an edit follows: the prompted one, or its guided and rescaled form."""
    if v_uncond is None:
        return v_cond
    if recipe.guidance_parallel < 1:
        x0_cond = pred_x0(x, v_cond, theta)
        v = guide_apart(v_uncond, v_cond, x0_cond, scale, recipe.guidance_parallel)
    else:
        v = guide(v_uncond, v_cond, scale)
    return rescaled(v, v_cond, recipe.guidance_rescale) if recipe.guidance_rescale > 0 else v


def edit(
    velocity: RowVelocity,
    x: Tensor,
    texts: Texts,
    trajectory: Trajectory,
    schedule: Schedule,
    recipe: RecipeSpec,
    layer_count: int,
) -> Generator[Tensor, Tensor | None, None]:
    """`denoise` by a model's own velocities: at the step that starts from level j the reference rows are the stored
    state of level j; outside the window there are none."""

    def predicted(x: Tensor, texts: Texts, asked: Asked) -> Halves:
        referred = None
        if asked.weight is not None:
            referred = Referred(trajectory(asked.level).to(x), asked.layers, asked.weight)
        return predict(velocity, x, asked.t, texts, asked.guided, recipe, referred)

    return states(denoise(predicted, x, texts, trajectory, schedule, recipe, layer_count))


def states(run: Generator[Progress, Tensor | None, None]) -> Generator[Tensor, Tensor | None, None]:
    """The state alone after each step of `denoise`; what is sent is handed on."""
    stay: Tensor | None = None
    with suppress(StopIteration):
        while True:
            stay = yield run.send(stay).x


def denoise(
    predictor: Predictor,
    begun: Tensor | Progress,
    texts: Texts,
    trajectory: Trajectory,
    schedule: Schedule,
    recipe: RecipeSpec,
    layer_count: int,
) -> Generator[Progress, Tensor | None, None]:
    """Denoises x [E,f,C,h,w] (float32, from `start_latents`), or goes on with what an earlier call has yielded; yields
    its progress after each step, the clean state last.

    A mask [E] that is sent back says which edits go on: the others leave the batch, and without any it ends.
    Start latents and trajectory are passed in: nothing here draws noise or reads a store.
    """
    layers = window(recipe.layer_start, recipe.layer_end, layer_count)
    referenced, guided = referenced_steps(recipe, schedule.steps, layers), guided_steps(recipe, schedule.steps)
    whole, taken = computed_steps(recipe, schedule.steps, layer_count), taken_steps(recipe, schedule.steps)
    matched = window(0.0, recipe.match_statistics, schedule.steps)
    keeping = Keeping(trajectory, schedule.steps, taken, texts.masks)
    if isinstance(begun, Progress):
        keeping.go_on(max(step for step in whole if step < begun.step))
        now = begun
    else:
        now = Progress(taken.start, keeping.begin(begun))
    source = trajectory(0).to(now.x) if matched else None
    for step in range(now.step, taken.stop):
        x, recent, level = now.x, [*now.recent], schedule.level(step)
        theta, t = schedule.thetas[level], schedule.timesteps[level]
        if step in whole:
            weight = weight_at(recipe, step, referenced) if step in referenced else None
            halves = predictor(x, texts, Asked(level, t, step in guided, layers, weight))
            recent = keeping.whole_step(step, recent[-1:], Whole(theta, x, halves))
        else:
            halves = extrapolated(recent[0], recent[1], theta, step in guided)
        v = guided_velocity(*halves, x, theta, scale_at(recipe, step, schedule.steps), recipe)
        if source is not None and step in matched:
            v = with_statistics(v, x, theta, source)
        followed = Evaluated(theta, x, v)
        before = keeping.history(now.followed, followed) if recipe.sampler == "multistep2" else None
        x = keeping.keep(second_order_step(followed, schedule.thetas[level - 1], before), level - 1)
        now = Progress(step + 1, x, followed, tuple(recent))
        stay = yield now
        if stay is not None:
            now, texts = now.of(stay.to(x.device)), texts.of(stay)
            keeping.drop(stay)
            if not len(now.x):
                return


def edited(
    velocity: RowVelocity,
    x: Tensor,
    texts: Texts,
    trajectory: Tensor | Sequence[Tensor],
    schedule: Schedule,
    recipe: RecipeSpec,
    layer_count: int,
) -> Tensor:
    """`edit` to its end, for comparing with another implementation on the same inputs: clean latents [E,f,C,h,w].

    trajectory: [N+1,f,C,h,w] by level, the clean state first; x: [E,f,C,h,w] at the level of the first step.
    """
    *_, clean = edit(velocity, x, texts, trajectory.__getitem__, schedule, recipe, layer_count)
    return clean
