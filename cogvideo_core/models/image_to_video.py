"""What an image-to-video model sees besides the latents, and its place.

As in `CogVideoXImageToVideoPipeline.__call__` of diffusers, the image latents of the first frame are at latent frame 0,
zeros follow, and all are joined to the latents by channel. For CogVideoX 1.5 latent frame 0 is the padding in
front: `__call__` counts it in before `prepare_latents`, whose own branch for an odd count then adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

OFS = 2.0  # what the pipeline gives a model with `ofs_embed_dim`, 1.5-5B-I2V, on every call


@dataclass(frozen=True)
class Images:
    """Image latents [C,h,w]: of the rows that are inverted or edited, and of the reference rows."""

    rows: Tensor
    reference: Tensor

    def beside(self, x: Tensor, reference_rows: int) -> Tensor:
        """x [R,f,C,h,w], reference rows first -> [R,f,2C,h,w] in one copy."""
        rows, frames, channels, height, width = x.shape
        joined = x.new_zeros(rows, frames, 2 * channels, height, width)
        joined[:, :, :channels] = x
        joined[:reference_rows, 0, channels:] = self.reference
        joined[reference_rows:, 0, channels:] = self.rows
        return joined
