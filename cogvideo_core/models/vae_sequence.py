"""The VAE over a clip of any length as one sequence, part by part, with its own caches of the frames before.

`AutoencoderKLCogVideoX` goes through a clip in parts and hands caches from one to the next, but takes and returns whole
clips. Here each part is a call of its own, and hooks give it the caches of the part before: results are the same,
memory does not grow with the clip, and no frame shows where a part begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


def parts(count: int, at_once: int) -> Iterator[slice]:
    """`count` frames as the VAE takes them: `at_once` in each part, and in the first one what is left over as well."""
    start = 0
    for end in range(min(at_once, count) + count % at_once, count + 1, at_once) if count > at_once else [count]:
        yield slice(start, end)
        start = end


class Caches:
    """What the encoder or the decoder keeps of the frames before, for each of its tiles, from part to part."""

    def __init__(self, half: nn.Module) -> None:
        self.half, self.held, self.new = half, list[Any](), list[Any]()

    @contextlib.contextmanager
    def carried(self) -> Iterator[None]:
        """The calls inside go on from those of the part before; if they fail, nothing has changed."""
        self.new = []
        hooks = [
            self.half.register_forward_pre_hook(self._give, with_kwargs=True),
            self.half.register_forward_hook(self._take),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.held = self.new

    def _give(self, half: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs | {"conv_cache": self.held[len(self.new)] if self.held else None}

    def _take(self, half: nn.Module, args: Any, output: Any) -> None:
        self.new.append(output[1])
