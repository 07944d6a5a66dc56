"""Where the windows of a long clip lie on its latents, and how what they say of shared latents is blended.

A causal VAE gives a clip's first latent frame one pixel frame, and each later one as many as it compresses (4). A
window is a slice of the clip's latents: its first latent frame is thus the clip's first, or one of four frames. All
windows are as long as the clips that the model was trained on, 8k+1 frames, which are 2k+1 latent frames.

A model that takes latent frames in pairs (CogVideoX 1.5) has a padding in front: once, before the clip's first latent
frame. Its windows begin at even places, so that pairs are the same in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from cogvideo_core.errors import BadSpec


@dataclass(frozen=True)
class Layout:
    """Windows of a clip. frames: pixel frames that are edited, 4k+1 (8k+1 for pairs), at most those of the clip.
    length: pixel frames of a window. places: of each window, its first latent frame, the padding counted.
    latents, span: latent frames of the whole clip and of a window, the padding counted. pair: latent frames that the
    transformer takes together; with 2 there is one padding in front."""

    frames: int
    length: int
    overlap: int
    temporal: int
    pair: int
    places: tuple[int, ...]
    latents: int
    span: int

    @property
    def padding(self) -> int:
        return self.pair - 1

    @property
    def starts(self) -> tuple[int, ...]:
        """Each window's first pixel frame that no later latent frame of it shares: 0, or the last of its first four."""
        return tuple(self.temporal * max(place - self.padding, 0) for place in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def slices(self) -> Iterator[slice]:
        """Each window's latent frames in the clip's."""
        return (slice(place, place + self.span) for place in self.places)

    def of(self, whole: Tensor, window: int, dim: int = -4) -> Tensor:
        """A window's part [..,span,C,h,w] of something on the clip's latent frames [..,latents,C,h,w], as a view."""
        return whole.narrow(dim, self.places[window], self.span)

    @cached_property
    def weights(self) -> Tensor:
        """How much each window counts at each of its latent frames, float32 [W,span]; 1 in sum at each of the clip's.

        Towards a neighbour it falls along half a sine squared over the latent frames that both have.
        """
        ends = [*(place + self.span for place in self.places)]
        raw = torch.ones(len(self), self.span, dtype=torch.float64)
        for w, place in enumerate(self.places):
            if w and (shared := ends[w - 1] - place) > 0:
                raw[w, :shared] *= ramp(shared)
            if w + 1 < len(self) and (shared := ends[w] - self.places[w + 1]) > 0:
                raw[w, self.span - shared :] *= ramp(shared).flip(0)
        total = torch.zeros(self.latents, dtype=torch.float64)
        for row, part in zip(raw, self.slices(), strict=True):
            total[part] += row
        return torch.stack([row / total[part] for row, part in zip(raw, self.slices(), strict=True)]).float()

    def before(self, window: int) -> Tensor:
        """How much the windows before this one count at each of its latent frames, float32 [span]; 0 after the first
        that it shares with none of them."""
        place, found = self.places[window], torch.zeros(self.span)
        for other in range(window):
            shared = self.places[other] + self.span - place
            if shared > 0:
                found[:shared] += self.weights[other, -shared:]
        return found

    def blended(self, parts: Sequence[Tensor]) -> Tensor:
        """What windows say [..,span,C,h,w] of the clip [..,latents,C,h,w], weighted where they share latent frames; one
        window's own, bit for bit, elsewhere."""
        first = parts[0]
        whole = first.new_zeros(*first.shape[:-4], self.latents, *first.shape[-3:])
        for part, row, at in zip(parts, self.weights, self.slices(), strict=True):
            whole[..., at, :, :, :] += part * rearrange(row, "f -> f 1 1 1").to(part)
        return whole


def ramp(shared: int) -> Tensor:
    """Rising weights over so many latent frames, float64; with the falling ones they sum to 1."""
    at = (torch.arange(shared, dtype=torch.float64) + 1) / (shared + 1)
    return torch.sin(math.pi / 2 * at).square()


def default_overlap(window: int, temporal: int = 4, pair: int = 1) -> int:
    """Latent frames that neighbours share unless told otherwise: about a sixth of a window. 2 of 49 frames, 4 of 81."""
    span = (window - 1) // temporal + 1
    return max(1, math.ceil(span / 6 / pair - 0.5)) * pair


def layout_of(frames: int, window: int, overlap: int, temporal: int = 4, pair: int = 1) -> Layout:
    """Windows of `window` pixel frames over a clip of `frames`, neighbours sharing `overlap` latent frames or more.

    The last window is moved back to end where the clip does; a clip that is shorter than a window is one window of its
    own length. At most 3 frames at the end are left out, 7 for pairs: latent frames hold four each. pair: latent frames
    that the transformer takes together. Raises BadSpec.
    """
    if window < 1 or (window - 1) % (2 * temporal):
        raise BadSpec(
            f"field dataset.frames: a window has 8k+1 frames, {window} are none; use 9, 17, 25, ..., 49 or 81"
        )
    if frames < 1:
        raise BadSpec("field dataset.window: the clip has no frames")
    padding = pair - 1
    span = (window - 1) // temporal + 1 + padding
    held = (frames - 1) // (temporal * pair) * pair + 1 + padding
    stride = (span - overlap) // pair * pair
    if overlap < 0 or stride < 1:
        most = span - pair
        raise BadSpec(f"field dataset.overlap: {overlap} is not in 0 .. {most}, as a window has {span} latent frames")
    span = min(span, held)
    places = [*range(0, held - span, stride), held - span]
    return Layout(
        frames=(held - padding - 1) * temporal + 1,
        length=(span - padding - 1) * temporal + 1,
        overlap=overlap,
        temporal=temporal,
        pair=pair,
        places=tuple(places),
        latents=held,
        span=span,
    )
