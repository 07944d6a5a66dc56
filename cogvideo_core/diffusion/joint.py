"""Editing a long clip as one: windows are predicted apart, and agree on the latent frames that they share.

There is one state of the whole clip. At each whole step every window predicts its part of it, beside its own stored
trajectory; the predictions are blended with smooth weights where windows overlap, and the step is taken on the whole.
As predictions are linear in what follows, all windows leave each step with equal states on shared latent frames.
Source: arXiv 2302.08113 (MultiDiffusion); for time arXiv 2305.18264 (Gen-L-Video).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from cogvideo_core.diffusion.editing import Asked, Referred, RowVelocity, Texts, Trajectory, denoise, predict
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.diffusion.skipping import Halves
from cogvideo_core.diffusion.windows import Layout
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

    def together(self, rounds: Sequence[int]) -> Iterator[list[int]]:
        """These windows, as they share calls."""
        calls: list[list[int]] = []
        for window in rounds:
            last = calls[-1] if calls else []
            if last and len(last) < self.at_once and self.velocities[last[0]] == self.velocities[window]:
                last.append(window)
            else:
                calls.append([window])
        return iter(calls)


def edit_jointly(
    windows: Windows, x: Tensor, texts: Texts, schedule: Schedule, recipe: RecipeSpec, layer_count: int
) -> Generator[Tensor, Tensor | None, None]:
    """`editing.edit` of a whole clip: x [E,latents,C,h,w] is `start_latents` of `windows.state`, masks are those of the
    whole clip; yields the whole state after each step, the clean one last, and takes masks of the edits that go on."""
    layout = windows.layout

    def predicted(x: Tensor, texts: Texts, asked: Asked) -> Halves:
        found = [
            halves
            for call in windows.together(range(len(layout)))
            for halves in window_halves(windows, call, x, texts, asked, recipe)
        ]
        unconds, conds = [uncond for uncond, _ in found if uncond is not None], [cond for _, cond in found]
        return (layout.blended(unconds) if unconds else None), layout.blended(conds)

    return denoise(predicted, x, texts, windows.state, schedule, recipe, layer_count)


def window_halves(
    windows: Windows, call: Sequence[int], x: Tensor, texts: Texts, asked: Asked, recipe: RecipeSpec
) -> list[Halves]:
    """What the windows of a call predict, each for its part [E,span,C,h,w] of the whole state x."""
    referred, count = None, len(call)
    if asked.weight is not None:
        states = torch.stack([windows.trajectories[window](asked.level).to(x) for window in call])
        referred = Referred(states, asked.layers, asked.weight)
    rows = rearrange([windows.layout.of(x, window) for window in call], "k e f c h w -> (e k) f c h w")
    own = each_for(windows.layout, call, texts)
    uncond, cond = predict(windows.velocities[call[0]], rows, asked.t, own, asked.guided, recipe, referred)
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
