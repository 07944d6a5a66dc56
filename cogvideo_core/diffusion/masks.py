"""Masks on the latent grid: which cells an edit may change, from which step on, and what they see of the reference.

What is outside a mask is known at every step: it is the stored state of the same level. A cell of weight 1 follows the
edit from the first step, a cell of weight 0 never does, and a cell between is released the later, the smaller its
weight (arXiv 2306.00950, Differential Diffusion). So no state is a mixture of two noises, and the border joins the edit
from a state that belongs to its level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import pad

from cogvideo_core.diffusion.ddim import Evaluated
from cogvideo_core.diffusion.guidance import window
from cogvideo_core.diffusion.skipping import Whole


@dataclass(frozen=True)
class Masks:
    """Of one batch of edits. cells: [E,f,h,w] in 0..1, how far each latent cell may change. tokens: [E,S], the same for
    image tokens, None where attention is as without a mask. held: the steps after which cells outside are put back."""

    cells: Tensor
    tokens: Tensor | None = None
    held: range = range(0)

    def of(self, chosen: Tensor) -> Masks:
        """Those of the edits that `chosen` [E] marks."""
        kept = chosen.to(self.cells.device)
        return replace(self, cells=self.cells[kept], tokens=None if self.tokens is None else self.tokens[kept])

    def seen(self, text_tokens: int) -> Tensor | None:
        """How far each token of a row may change, its text tokens, which come first, wholly: [E,S]."""
        return None if self.tokens is None else pad(self.tokens, (text_tokens, 0), value=1.0)

    def free(self, step: int, taken: range) -> Tensor:
        """The cells that follow the edit from a whole step of the held ones on: bool [E,f,1,h,w]. taken: all steps."""
        progress = (step - taken.start) / len(taken)
        return ((self.cells > 0) & (self.cells >= 1 - progress))[:, :, None]


def held_steps(start: float, end: float, steps: int, taken: range) -> range:
    """The steps between two fractions of all steps that an edit takes."""
    asked = window(start, end, steps)
    return range(max(asked.start, taken.start), min(asked.stop, taken.stop))


def levels_held(held: range, steps: int) -> list[int]:
    """The trajectory levels that may be put back: that of the first step's start, and that after each step. Cells are
    released at whole steps, and up to two are skipped before one."""
    last = min(held.stop + 2, steps)
    return [steps - held.start, *(steps - step - 1 for step in range(held.start, last))] if held else []


def put_back(x: Tensor, stored: Tensor, free: Tensor) -> Tensor:
    """x [E,f,C,h,w] where cells are free, the stored state [f,C,h,w] elsewhere; bit for bit in both."""
    return torch.where(free, x, stored.to(x))


def without_drift(before: Evaluated, now: Evaluated, cells: Tensor) -> Evaluated:
    """`before` with a velocity from which, in these cells, there is no drift to `now`: a cell that was held until now
    has no history of its own."""
    turned = now.theta - before.theta
    steady = (now.v + math.sin(turned) * before.x) / math.cos(turned)
    return before._replace(v=torch.where(cells, steady, before.v))


def released(before: Whole, now: Whole, cells: Tensor) -> Whole:
    """`without_drift` for both velocities of a whole step."""
    pairs = zip(before.halves, now.halves, strict=True)
    uncond, cond = (
        None
        if v_before is None or v_now is None
        else without_drift(Evaluated(before.theta, before.x, v_before), Evaluated(now.theta, now.x, v_now), cells).v
        for v_before, v_now in pairs
    )
    assert cond is not None
    return before._replace(halves=(uncond, cond))


class Keeping:
    """Keeps what is outside the masks at the stored states while a batch is denoised; without masks it does nothing.

    Which cells are held changes at whole steps only, so that no velocity is extrapolated across a change.
    """

    def __init__(self, trajectory: Callable[[int], Tensor], levels: int, taken: range, masks: Masks | None) -> None:
        """levels: of the trajectory, without the clean one. taken: all steps of the edit."""
        self.trajectory, self.levels, self.taken = trajectory, levels, taken
        self.masks = masks if masks is not None and masks.held else None
        self.free: Tensor | None = None  # None: all
        self.new: Tensor | None = None  # cells that the present step releases; None: none

    def begin(self, x: Tensor) -> Tensor:
        """The start latents [E,f,C,h,w], those of held cells from the trajectory."""
        self._hold(self.taken.start)
        return self.keep(x, self.levels - self.taken.start)

    def go_on(self, step: int) -> None:
        """As it was after a whole step."""
        self._hold(step)

    def keep(self, x: Tensor, level: int) -> Tensor:
        """The states [E,f,C,h,w] at a level, those of held cells from the trajectory."""
        return x if self.free is None else put_back(x, self.trajectory(level), self.free)

    def whole_step(self, step: int, before: Sequence[Whole], now: Whole) -> list[Whole]:
        """The whole steps that are to be kept with this one; those before it lose their drift in cells it releases."""
        held_before = None if self.free is None else ~self.free
        self._hold(step)
        self.new = held_before if held_before is None or self.free is None else held_before & self.free
        return [each if self.new is None else released(each, now, self.new) for each in before] + [now]

    def history(self, before: Evaluated | None, now: Evaluated) -> Evaluated | None:
        """The step before `now`, for the second-order sampler; without drift in cells that `now` releases."""
        new, self.new = self.new, None
        return before if before is None or new is None else without_drift(before, now, new)

    def drop(self, stay: Tensor) -> None:
        """Keeps the edits that `stay` [E] marks."""
        self.masks = None if self.masks is None else self.masks.of(stay)
        self.free = None if self.free is None else self.free[stay.to(self.free.device)]

    def _hold(self, step: int) -> None:
        self.free = self.masks.free(step, self.taken) if self.masks and step in self.masks.held else None


def cells_of(alpha: Tensor, cell_px: int, front_padding: int = 0) -> Tensor:
    """A mask of pixels [F,H,W] on the latent grid [f,h,w]: a cell may change as far as any of its pixels may, in any of
    its frames. The VAE takes the first frame alone, then fours; padding in front repeats the first."""
    grid = reduce(alpha, "f (h p) (w q) -> f h w", "max", p=cell_px, q=cell_px)
    frames = torch.cat([grid[:1], reduce(grid[1:], "(f t) h w -> f h w", "max", t=4)])
    return torch.cat([frames[:1].expand(front_padding, -1, -1), frames])


def pixels_of(cells: Tensor, cell_px: int, front_padding: int = 0) -> Tensor:
    """A mask of latent cells [f,h,w] as pixels [F,H,W]: `cells_of` gives it back."""
    cells = cells[front_padding:]
    frames = torch.cat([cells[:1], cells[1:].repeat_interleave(4, 0)])
    return frames.repeat_interleave(cell_px, 1).repeat_interleave(cell_px, 2)


def tokens_of(cells: Tensor, patch: int, patch_frames: int = 1) -> Tensor:
    """Cells [E,f,h,w] as image tokens [E,S] in the transformer's order; a token may change as far as any cell of it."""
    pooled = reduce(cells, "e (f t) (h p) (w q) -> e f h w", "max", t=patch_frames, p=patch, q=patch)
    return rearrange(pooled, "e f h w -> e (f h w)")
