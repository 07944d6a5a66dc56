"""Editing a long clip as one: windows are predicted apart, and agree on the latent frames that they share.

There is one state of the whole clip. At each whole step every window predicts its part of it, beside its own stored
trajectory; the predictions are blended with smooth weights where windows overlap, and the step is taken on the whole.
As predictions are linear in what follows, all windows leave each step with equal states on shared latent frames.
Source: arXiv 2302.08113 (MultiDiffusion); for time arXiv 2305.18264 (Gen-L-Video).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cogvideo_core.diffusion.editing import Asked, RowVelocity, Texts, Trajectory, denoise, predict, referred_by
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.diffusion.skipping import Halves
from cogvideo_core.diffusion.windows import Layout
from cogvideo_core.settings.specs import RecipeSpec


@dataclass(frozen=True)
class Windows:
    """A long clip's windows: where they lie; of each, the model's velocity and the stored states [span,C,h,w]."""

    layout: Layout
    velocities: Sequence[RowVelocity]
    trajectories: Sequence[Trajectory]

    def state(self, level: int) -> Tensor:
        """The stored state of the whole clip at a level: [latents,C,h,w]. What windows share is blended."""
        return self.layout.blended([trajectory(level).float() for trajectory in self.trajectories])

    def texts(self, texts: Texts, window: int) -> Texts:
        """What a window's edits are given: `texts`, of whose masks its part."""
        if texts.masks is None or texts.masks.tokens is None:
            return replace(texts, masks=None)
        tokens = texts.masks.tokens
        frames = tokens.unflatten(1, (self.layout.latents // self.layout.pair, -1))
        first, count = (n // self.layout.pair for n in (self.layout.places[window], self.layout.span))
        own = replace(texts.masks, tokens=frames[:, first : first + count].flatten(1))
        return replace(texts, masks=own)


def edit_jointly(
    windows: Windows,
    x: Tensor,
    texts: Texts,
    schedule: Schedule,
    recipe: RecipeSpec,
    layer_count: int,
) -> Generator[Tensor, Tensor | None, None]:
    """`editing.edit` of a whole clip: x [E,latents,C,h,w] is `start_latents` of `windows.state`, masks are those of the
    whole clip; yields the whole state after each step, the clean one last, and takes masks of the edits that go on."""

    def predicted(x: Tensor, texts: Texts, asked: Asked) -> Halves:
        found = [window_halves(windows, window, x, texts, asked, recipe) for window in range(len(windows.layout))]
        unconds, conds = [uncond for uncond, _ in found if uncond is not None], [cond for _, cond in found]
        return (windows.layout.blended(unconds) if unconds else None), windows.layout.blended(conds)

    return denoise(predicted, x, texts, windows.state, schedule, recipe, layer_count)


def window_halves(windows: Windows, window: int, x: Tensor, texts: Texts, asked: Asked, recipe: RecipeSpec) -> Halves:
    """What one window predicts for its part [E,span,C,h,w] of the whole state x."""
    part = windows.layout.of(x, window)
    referred = referred_by(asked, windows.trajectories[window], x)
    own = windows.texts(texts, window)
    return predict(windows.velocities[window], part, asked.t, own, asked.guided, recipe, referred)


def edited_jointly(
    windows: Windows, x: Tensor, texts: Texts, schedule: Schedule, recipe: RecipeSpec, layer_count: int
) -> Tensor:
    """`edit_jointly` to its end: clean latents [E,latents,C,h,w]."""
    *_, clean = edit_jointly(windows, x, texts, schedule, recipe, layer_count)
    return clean
