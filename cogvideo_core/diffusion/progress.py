"""An edit between two of its steps: all that the steps to come need, so that it can be stored and gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cogvideo_core.diffusion.ddim import Evaluated
from cogvideo_core.diffusion.skipping import Whole


@dataclass(frozen=True)
class Progress:
    """step: the next one. x: states [E,f,C,h,w] it starts from. followed: the step before. recent: the last whole steps
    before, two at most."""

    step: int
    x: Tensor
    followed: Evaluated | None = None
    recent: tuple[Whole, ...] = ()

    def of(self, chosen: Tensor) -> Progress:
        """That of the edits which `chosen` [E] marks."""
        followed = self.followed and Evaluated(self.followed.theta, self.followed.x[chosen], self.followed.v[chosen])
        return Progress(self.step, self.x[chosen], followed, tuple(each.of(chosen) for each in self.recent))

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a file; `of_tensors` gives the same again, bit for bit."""
        named = {"step": torch.tensor(self.step), "x": self.x}
        if self.followed is not None:
            named |= _named("followed", self.followed.theta, self.followed.x, v=self.followed.v)
        for number, whole in enumerate(self.recent):
            v_uncond, v_cond = whole.halves
            halves = {"cond": v_cond} if v_uncond is None else {"cond": v_cond, "uncond": v_uncond}
            named |= _named(f"whole{number}", whole.theta, whole.x, **halves)
        return {name: values.contiguous() for name, values in named.items()}

    @classmethod
    def of_tensors(cls, named: Mapping[str, Tensor]) -> Progress:
        """What `tensors` has named."""
        followed, recent = None, []
        if "followed.x" in named:
            followed = Evaluated(float(named["followed.theta"]), named["followed.x"], named["followed.v"])
        for one in ("whole0", "whole1"):
            if f"{one}.x" in named:
                halves = named.get(f"{one}.uncond"), named[f"{one}.cond"]
                recent.append(Whole(float(named[f"{one}.theta"]), named[f"{one}.x"], halves))
        return cls(int(named["step"]), named["x"], followed, tuple(recent))


def _named(prefix: str, theta: float, x: Tensor, **others: Tensor) -> dict[str, Tensor]:
    found = {"theta": torch.tensor(theta, dtype=torch.float64), "x": x} | others
    return {f"{prefix}.{name}": values for name, values in found.items()}
