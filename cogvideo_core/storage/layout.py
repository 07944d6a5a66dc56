"""How a state becomes bits and back: logical dtype and stored dtype, the same in every container."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.errors import BadSpec, ModelError, StorageError
from cogvideo_core.storage.codecs import CODECS

# logical dtype: (torch dtype, stored bits). Little-endian everywhere.
DTYPES: dict[str, tuple[torch.dtype, str]] = {
    "float16": (torch.float16, "<u2"),
    "bfloat16": (torch.bfloat16, "<u2"),
    "float32": (torch.float32, "<f4"),
}


class Unrepresentable(StorageError):
    """A value that the stored dtype can't hold: another try with the same dtype fails too."""

    retryable = False


@dataclass(frozen=True)
class Layout:
    """What a trajectory file holds. shape [N+1,f,C,h,w]; levels: those of 0..N that are stored, ascending."""

    dtype: str
    shape: tuple[int, ...]
    timesteps: tuple[int, ...]
    levels: tuple[int, ...]
    codec: str = "none"

    @property
    def bits(self) -> np.dtype:
        return np.dtype(DTYPES[self.dtype][1])

    @property
    def step_bytes(self) -> int:
        return prod(self.shape[1:]) * self.bits.itemsize

    def encode(self, state: Tensor, level: int) -> np.ndarray:
        """Bits [f,C,h,w] of one state. Raises ModelError for NaN or infinity, Unrepresentable for an overflow."""
        exact = state.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(exact).all()):
            raise ModelError(f"trajectory level {level}: NaN or infinity; run the model in float32 (model.dtype)")
        stored = exact.to(DTYPES[self.dtype][0]).contiguous()
        if not bool(torch.isfinite(stored).all()):
            largest = float(exact.abs().max())
            raise Unrepresentable(
                f"trajectory level {level}: {largest:.6g} does not fit dtype {self.dtype}; store dtype='float32'"
            )
        raw = stored if self.dtype == "float32" else stored.view(torch.int16)
        return raw.numpy().view(self.bits)

    def decode(self, raw: np.ndarray) -> Tensor:
        """float32 [f,C,h,w] from one state's bits, uint8; it may share their memory."""
        bits = torch.from_numpy(raw.view(self.bits).reshape(self.shape[1:]))
        if self.dtype == "float32":
            return bits
        state = torch.from_numpy(np.empty(bits.shape, np.float32))  # numpy's memory shows in tracemalloc
        return state.copy_(bits.view(DTYPES[self.dtype][0]))


def make_layout(
    state: Tensor, timesteps: Sequence[int], dtype: str, levels: Sequence[int] | None, codec: str = "none"
) -> Layout:
    """The layout of a trajectory whose states look like `state` [f,C,h,w]. Raises BadSpec for what can't be stored."""
    if dtype not in DTYPES:
        raise BadSpec(f"dtype {dtype!r}: can't be stored; use one of {', '.join(DTYPES)}")
    if codec not in CODECS:
        raise BadSpec(f"codec {codec!r}: not known; use one of {', '.join(CODECS)}")
    steps = tuple(int(t) for t in timesteps)
    if not steps or steps[0] != -1 or any(a >= b for a, b in pairwise(steps)):
        raise BadSpec(f"timesteps {steps[:4]}...: must ascend from -1, the clean end; give the levels' own timesteps")
    kept = tuple(range(len(steps))) if levels is None else tuple(sorted(set(levels)))
    if not kept or kept[0] < 0 or kept[-1] >= len(steps):
        raise BadSpec(f"levels {kept}: outside 0..{len(steps) - 1}; keep levels that the trajectory has")
    if state.ndim != 4 or state.numel() == 0:
        raise BadSpec(f"state of shape {tuple(state.shape)}: not [f,C,h,w]; give one clip's latents")
    return Layout(dtype, (len(steps), *state.shape), steps, kept, codec)
