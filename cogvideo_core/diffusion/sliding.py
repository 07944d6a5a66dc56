"""Editing a long clip as one, window after window: memory for one window, however long the clip.

Each window is denoised to its end. Where it overlaps windows before it, its predictions are blended with theirs, which
were kept for each whole step; those windows themselves have not seen it, which is all in which the result differs from
`joint.py`'s.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from cogvideo_core.diffusion.editing import Asked, Texts, denoise
from cogvideo_core.diffusion.joint import Windows, anchor_of, check_anchors, window_halves
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.diffusion.skipping import Halves
from cogvideo_core.settings.specs import RecipeSpec

NAMES = ("sums_uncond", "sums_cond", "anchors")


@dataclass(frozen=True)
class Carried:
    """What windows leave to those after them, by level of each whole step: sums of their weighted predictions
    [E,n,C,h,w] from the next window's first latent frame on, and the states [E,span,C,h,w] of its anchor."""

    sums_uncond: dict[int, Tensor] = field(default_factory=dict)
    sums_cond: dict[int, Tensor] = field(default_factory=dict)
    anchors: dict[int, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a file; `of_tensors` gives the same again, bit for bit."""
        return {f"{name}.{level}": x.contiguous() for name in NAMES for level, x in getattr(self, name).items()}

    @classmethod
    def of_tensors(cls, named: Mapping[str, Tensor]) -> Carried:
        """What `tensors` has named."""
        carried = cls()
        for name, values in named.items():
            kind, level = name.split(".")
            getattr(carried, kind)[int(level)] = values
        return carried


@dataclass(frozen=True)
class Sliding:
    """The edits of one batch, window after window. Texts are those of the whole clip, as for `edit_jointly`."""

    windows: Windows
    texts: Texts
    schedule: Schedule
    recipe: RecipeSpec
    layer_count: int

    def __post_init__(self) -> None:
        check_anchors(self.recipe, self.texts)

    def states(self, window: int, x: Tensor, carried: Carried, left: Carried) -> Generator[Tensor, None, None]:
        """The window's states [E,span,C,h,w] after each step, the clean one last. x: where it starts, its part of
        `start_latents` of the whole. Fills `left` with what the next window is to be given as `carried`."""
        predicted = partial(self._predicted, window, carried, left)
        trajectory = partial(self.windows.part, window)
        texts = self._texts(window)
        for now in denoise(predicted, x, texts, trajectory, self.schedule, self.recipe, self.layer_count):
            yield now.x

    def finished(self, window: int, clean: Tensor) -> Tensor:
        """Of a window's clean latents, those that no later window shares: [E,n,C,h,w]. Joined they are the clip's."""
        places = self.windows.layout.places
        return clean if window == len(places) - 1 else clean[:, : places[window + 1] - places[window]]

    def _texts(self, window: int) -> Texts:
        masks = self.texts.masks
        if masks is None:
            return self.texts
        return replace(self.texts, masks=replace(masks, cells=self.windows.layout.of(masks.cells, window, dim=-3)))

    def _predicted(self, window: int, carried: Carried, left: Carried, x: Tensor, texts: Texts, asked: Asked) -> Halves:
        parts, anchor = {window: x}, anchor_of(self.recipe, window)
        if anchor is not None:
            parts[anchor] = carried.anchors[asked.level].to(x)
        ((uncond, cond),) = window_halves(self.windows, [window], parts, texts, asked, self.recipe)
        if self.recipe.anchor == "previous" or (self.recipe.anchor == "first" and window == 0):
            left.anchors[asked.level] = x
        elif anchor is not None:
            left.anchors[asked.level] = carried.anchors[asked.level]
        return (
            None if uncond is None else self._blended(window, uncond, carried.sums_uncond, left.sums_uncond, asked),
            self._blended(window, cond, carried.sums_cond, left.sums_cond, asked),
        )

    def _blended(
        self, window: int, own: Tensor, before: dict[int, Tensor], left: dict[int, Tensor], asked: Asked
    ) -> Tensor:
        """A window's prediction, with those of windows before it where they share latent frames."""
        layout, last = self.windows.layout, window == len(self.windows.layout) - 1
        row = rearrange(layout.weights[window], "f -> f 1 1 1").to(own)
        total = own * row
        so_far = layout.before(window)
        shared = int((so_far > 0).sum())
        if shared:
            total[:, :shared] += before[asked.level].to(own)
        if not last and (overlap := layout.places[window] + layout.span - layout.places[window + 1]) > 0:
            left[asked.level] = total[:, -overlap:].clone()
        if not shared:
            return own
        weight = rearrange(so_far[:shared], "f -> f 1 1 1").to(own) + row[:shared]
        return torch.cat([total[:, :shared] / weight, own[:, shared:]], dim=1)


def edit_sliding(sliding: Sliding, x: Tensor) -> Iterator[Tensor]:
    """All windows one after the other: clean latents [E,n,C,h,w] as each is finished, in sum [E,latents,C,h,w].

    x: `start_latents` of the whole.
    """
    carried = Carried()
    for window in range(len(sliding.windows.layout)):
        left = Carried()
        *_, clean = sliding.states(window, sliding.windows.layout.of(x, window), carried, left)
        yield sliding.finished(window, clean)
        carried = left
