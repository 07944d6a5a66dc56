"""Editing a long clip as one: windows are predicted apart, and agree on the latent frames that they share.

There is one state of the whole clip. At each whole step every window predicts its part of it, beside its own stored
trajectory; the predictions are blended with smooth weights where windows overlap, and the step is taken on the whole.
Source: arXiv 2302.08113 (MultiDiffusion); for time arXiv 2305.18264 (Gen-L-Video). Where the states of many windows are
too much for memory, `sliding.py` edits one window after the other.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from cogvideo_core.diffusion.editing import Asked, Referred, RowVelocity, Texts, Trajectory, denoise, predict, states
from cogvideo_core.diffusion.progress import Progress
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.diffusion.skipping import Halves
from cogvideo_core.diffusion.windows import Layout
from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import RecipeSpec


@dataclass(frozen=True)
class Windows:
    """A long clip's windows: where they lie; of each, the model's velocity and the stored states [span,C,h,w].

    at_once: windows that share a call of the model, where their velocity is the same.
    """

    layout: Layout
    velocities: Sequence[RowVelocity]
    trajectories: Sequence[Trajectory]
    at_once: int = 1

    def state(self, level: int) -> Tensor:
        """The stored state of the whole clip at a level: [latents,C,h,w]. What windows share is blended."""
        return self.layout.blended([trajectory(level).float() for trajectory in self.trajectories])

    def part(self, window: int, level: int) -> Tensor:
        """A window's part of `state`, for which only those are read that share latent frames with it: [span,C,h,w]."""
        layout, place = self.layout, self.layout.places[window]
        total = None
        for other, at in enumerate(layout.slices()):
            begin, end = max(at.start, place), min(at.stop, place + layout.span)
            if begin >= end:
                continue
            stored = self.trajectories[other](level).float()
            row = rearrange(layout.weights[other], "f -> f 1 1 1").to(stored)
            total = stored.new_zeros(layout.span, *stored.shape[1:]) if total is None else total
            own = slice(begin - at.start, end - at.start)
            total[begin - place : end - place] += stored[own] * row[own]
        assert total is not None
        return total

    def calls(self, recipe: RecipeSpec) -> list[list[int]]:
        """The windows, as they share calls; those of a call all have anchors or all have none."""
        kinds = [(anchor_of(recipe, window) is None, velocity) for window, velocity in enumerate(self.velocities)]
        calls: list[list[int]] = []
        for window in range(len(self.layout)):
            last = calls[-1] if calls else []
            if last and len(last) < self.at_once and kinds[last[0]] == kinds[window]:
                last.append(window)
            else:
                calls.append([window])
        return calls


def edit_jointly(
    windows: Windows, x: Tensor, texts: Texts, schedule: Schedule, recipe: RecipeSpec, layer_count: int
) -> Generator[Tensor, Tensor | None, None]:
    """`editing.edit` of a whole clip: x [E,latents,C,h,w] is `start_latents` of `windows.state`, masks are those of the
    whole clip; yields the whole state after each step, the clean one last, and takes masks of the edits that go on."""
    return states(denoise_jointly(windows, x, texts, schedule, recipe, layer_count))


def denoise_jointly(
    windows: Windows, begun: Tensor | Progress, texts: Texts, schedule: Schedule, recipe: RecipeSpec, layer_count: int
) -> Generator[Progress, Tensor | None, None]:
    """As `edit_jointly`, with all that is needed to go on later: from there the result is the same, bit for bit."""
    layout = windows.layout
    check_anchors(recipe, texts)

    def predicted(x: Tensor, texts: Texts, asked: Asked) -> Halves:
        parts = [layout.of(x, window) for window in range(len(layout))]
        found = list[Halves]()
        for call in windows.calls(recipe):
            found += window_halves(windows, call, parts, texts, asked, recipe)
        unconds, conds = [uncond for uncond, _ in found if uncond is not None], [cond for _, cond in found]
        return (layout.blended(unconds) if unconds else None), layout.blended(conds)

    return denoise(predicted, begun, texts, windows.state, schedule, recipe, layer_count)


def check_anchors(recipe: RecipeSpec, texts: Texts) -> None:
    """Raises BadSpec where anchors can't be seen."""
    if recipe.anchor != "none" and texts.masks is not None:
        raise BadSpec("field recipe.anchor: edits within a mask can't have anchors; set it to none, or use no masks")


def anchor_of(recipe: RecipeSpec, window: int) -> int | None:
    """The window whose edit this window's edit sees."""
    if recipe.anchor == "none" or window == 0:
        return None
    return 0 if recipe.anchor == "first" else window - 1


def window_halves(
    windows: Windows,
    call: Sequence[int],
    parts: Sequence[Tensor] | dict[int, Tensor],
    texts: Texts,
    asked: Asked,
    recipe: RecipeSpec,
) -> list[Halves]:
    """What the windows of a call predict, each for its part of the whole state. parts: [E,span,C,h,w] by window, theirs
    and those of their anchors."""
    referred, count = None, len(call)

    def rows(numbers: Sequence[int]) -> Tensor:
        return rearrange([parts[window] for window in numbers], "k e f c h w -> (e k) f c h w")

    def stored(numbers: Sequence[int]) -> Tensor:
        return torch.stack([windows.trajectories[window](asked.level).to(parts[call[0]]) for window in numbers])

    if asked.weight is not None:
        near = [anchor for window in call if (anchor := anchor_of(recipe, window)) is not None]
        referred = Referred(stored(call), asked.layers, asked.weight, (rows(near), stored(near)) if near else None)
    own = each_for(windows.layout, call, texts)
    uncond, cond = predict(windows.velocities[call[0]], rows(call), asked.t, own, asked.guided, recipe, referred)
    unconds = [None] * count if uncond is None else [*rearrange(uncond, "(e k) ... -> k e ...", k=count)]
    return [*zip(unconds, rearrange(cond, "(e k) ... -> k e ...", k=count), strict=True)]


def each_for(layout: Layout, call: Sequence[int], texts: Texts) -> Texts:
    """What the rows of a call are given: edits, and of each edit its windows."""
    strengths, masks, count = texts.strengths, texts.masks, len(call)
    if masks is not None and masks.tokens is not None:
        tokens = masks.tokens.unflatten(1, (layout.latents // layout.pair, -1))
        firsts, span = [layout.places[window] // layout.pair for window in call], layout.span // layout.pair
        own = [tokens[:, first : first + span].flatten(1) for first in firsts]
        masks = replace(masks, tokens=rearrange(own, "k e s -> (e k) s"))
    return Texts(
        texts.cond.repeat_interleave(count, 0),
        texts.uncond,
        texts.reference.expand(count, -1, -1),
        None if strengths is None else strengths.repeat_interleave(count),
        masks,
    )


def edited_jointly(
    windows: Windows, x: Tensor, texts: Texts, schedule: Schedule, recipe: RecipeSpec, layer_count: int
) -> Tensor:
    """`edit_jointly` to its end: clean latents [E,latents,C,h,w]."""
    *_, clean = edit_jointly(windows, x, texts, schedule, recipe, layer_count)
    return clean
