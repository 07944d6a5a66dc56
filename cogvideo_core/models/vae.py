"""The VAE of a loaded model: pixels to latents and back, with checked values, and with less memory after it runs out.

Nothing here knows of the latents' padding; see `model.VideoModel.encode` and `decode`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from cogvideo_core.errors import BadSpec, NotFinite, OutOfMemory
from cogvideo_core.models.lane import Lane
from cogvideo_core.models.memory import give_back, ran_out_of_memory
from cogvideo_core.models.vae_sequence import Caches, parts
from cogvideo_core.settings.specs import ModelSpec

logger = logging.getLogger(__name__)
T = TypeVar("T")
PRECISIONS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def finite(values: Tensor, component: str, dtype: torch.dtype, field: str) -> Tensor:
    """The values themselves. Raises NotFinite, naming the precision's field, unless all are finite."""
    if values.is_meta or bool(torch.isfinite(values).all()):
        return values
    used = PRECISIONS.get(dtype, str(dtype))
    other = "float32" if used == "bfloat16" else "bfloat16 or float32"
    remedy = "check its weights (download them again) and the LoRA" if used == "float32" else f"set {field} to {other}"
    raise NotFinite(f"field {field}: the {component} gave values that are no finite numbers in {used}; {remedy}")


class Vae:
    """An AutoencoderKLCogVideoX on a device, in its lane, and what it falls back on when memory runs out."""

    def __init__(self, module: Any, device: torch.device, spec: ModelSpec, pixels_a_cell: int, lane: Lane) -> None:
        self.module, self.device, self.spec, self.pixels_a_cell, self.lane = module, device, spec, pixels_a_cell, lane

    def encode(self, frames: np.ndarray) -> Tensor:
        """frames uint8 [F,H,W,3] -> the posterior's mode, unscaled: float32 [f,C,h,w] on the CPU."""
        return self._within_memory(lambda: self._encoded(frames), f"encoding {_size(*frames.shape[1:3])} pixels")

    def encode_sequence(self, frames: np.ndarray) -> Tensor:
        """`encode` of a clip of any length, 4k+1 frames, part by part."""
        caches, found, what = Caches(self.module.encoder), [], f"encoding {_size(*frames.shape[1:3])} pixels"
        for part in parts(len(frames), self.module.num_sample_frames_batch_size):
            found.append(self._next_part(caches, partial(self._encoded, frames[part]), what))
        return torch.cat(found)

    def _encoded(self, frames: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(frames).to(self.device, self.module.dtype) / 127.5 - 1
        latents = self.module.encode(rearrange(pixels, "f h w c -> 1 c f h w")).latent_dist.mode()
        wanted = frames.shape[1] // self.pixels_a_cell, frames.shape[2] // self.pixels_a_cell
        self._check_size(latents, wanted, _size(*frames.shape[1:3]))
        finite(latents, "VAE's encoder", self.module.dtype, "model.vae_dtype")
        return rearrange(latents.float(), "1 c f h w -> f c h w").cpu()

    def decode(self, latents: Tensor, scale: float) -> np.ndarray:
        """Latents [f,C,h,w], divided by `scale` -> frames uint8 [F,H,W,3]."""
        given = self.lane.crossing(latents)
        return self._within_memory(lambda: self._decoded(given, scale), f"decoding {self._pixels(latents)} pixels")

    def decode_sequence(self, latents: Tensor, scale: float) -> Iterator[np.ndarray]:
        """Latents [f,C,h,w] of any length -> frames uint8 [n,H,W,3], part by part: what `decode` gives.

        An even number of latent frames, from which diffusers makes 4f frames, gives 4(f-1)+1 as an odd number does.
        """
        count, caches, given = len(latents), Caches(self.module.decoder), self.lane.crossing(latents)
        extra = 1 - count % 2  # the decoder goes wrong unless its first part is odd; nothing looks at frames to come
        given = torch.cat([given, given[-1:].expand(extra, -1, -1, -1)])
        for part in parts(count + extra, self.module.num_latent_frames_batch_size):
            run = partial(self._decoded, given[part], scale)
            frames = self._next_part(caches, run, f"decoding {self._pixels(latents)} pixels")
            yield frames[: len(frames) - 4 * extra] if part.stop == count + extra else frames

    def _next_part(self, caches: Caches, run: Callable[[], T], what: str) -> T:
        """run() with the caches of the part before, which other tiles or another precision could not use."""

        def carried() -> T:
            with caches.carried():
                return run()

        return self._within_memory(carried, what, as_it_is=bool(caches.held))

    def _decoded(self, latents: Tensor, scale: float) -> np.ndarray:
        z = (latents.to(self.device) / scale).to(self.module.dtype)
        pixels = self.module.decode(rearrange(z, "f c h w -> 1 c f h w")).sample
        wanted = latents.shape[-2] * self.pixels_a_cell, latents.shape[-1] * self.pixels_a_cell
        self._check_size(pixels, wanted, self._pixels(latents))
        finite(pixels, "VAE's decoder", self.module.dtype, "model.vae_dtype")
        pixels = rearrange(pixels.float(), "1 c f h w -> f h w c")
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()

    def _pixels(self, latents: Tensor) -> str:
        return _size(latents.shape[-2] * self.pixels_a_cell, latents.shape[-1] * self.pixels_a_cell)

    def _check_size(self, found: Tensor, wanted: tuple[int, int], shown: str) -> None:
        """diffusers' tiles don't add up at every size: 48 pixels in tiles of 24 come back as 56."""
        if tuple(found.shape[-2:]) != wanted:
            raise BadSpec(
                f"field model.vae_tiling: the VAE's tiles do not fit {shown} pixels; turn it off or use another size"
            )

    def _within_memory(self, run: Callable[[], T], what: str, as_it_is: bool = False) -> T:
        """run() in the lane, retried with less memory each time it runs out, which stays so in this process: first
        without the transformer beside it. as_it_is: the module itself is left alone.

        Raises OutOfMemory where nothing is left to try.
        """
        while True:
            beside = self.lane.beside
            try:
                with self.lane.held():
                    return run()
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                step = self.lane.leave if beside else None if as_it_is else self._next_step()
                if step is None:
                    raise OutOfMemory(f"{what}: memory does not suffice for the VAE; {self._remedy()}") from error
            give_back()  # out here, where the failed call's tensors are no longer held by its traceback
            logger.warning("memory ran out while %s; going on with %s", what, step())

    def _next_step(self) -> Callable[[], str] | None:
        fallback = self.spec.vae_fallback
        if fallback != "none" and not self.module.use_tiling:
            return self._tile
        if fallback == "bfloat16" and self.module.dtype == torch.float32:
            return self._shorten
        return None

    def _tile(self) -> str:
        self.module.enable_tiling()
        return "the VAE in tiles"

    def _shorten(self) -> str:
        self.module.to(torch.bfloat16)
        return "the VAE in bfloat16"

    def _remedy(self) -> str:
        """What the user can still change."""
        ways = ["set model.vae_tiling=on"] if not self.module.use_tiling else []
        ways += ["set model.vae_dtype=bfloat16"] if self.module.dtype == torch.float32 else []
        ways += ["set model.offload=model"] if self.spec.offload == "none" and self.device.type == "cuda" else []
        return ", or ".join([*ways, "lower dataset.height and dataset.width"])


def _size(height: int, width: int) -> str:
    return f"{height}x{width}"
