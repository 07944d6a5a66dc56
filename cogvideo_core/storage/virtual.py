"""A trajectory that is not stored: the clean state, and the seed of the one noise added at every level."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cogvideo_core.diffusion.inversion import seeded_noise
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.errors import BadSpec, CorruptObject
from cogvideo_core.storage.reader import Trajectory

if TYPE_CHECKING:
    from cogvideo_core.storage.objects import Objects

SEED = 0


def noised_state(x_0: Tensor, theta: float, seed: int = SEED) -> Tensor:
    """cos θ · x_0 + sin θ · ε, float32 on the CPU, with the ε that the seed gives."""
    return seeded_noise(x_0.shape, seed).mul_(math.sin(theta)).add_(x_0, alpha=math.cos(theta))


def virtual_record(table: Mapping[str, Any], schedule: Schedule, seed: int = SEED) -> dict[str, Any]:
    """The record of a trajectory of which only level 0 was written; `table` is what `write_trajectory` gave."""
    digest = noise_sha256(tuple(table["shape"][1:]), seed)
    return {**table, "kind": "noised", "noise": {"seed": seed, "thetas": schedule.thetas, "sha256": digest}}


def noise_sha256(shape: tuple[int, ...], seed: int) -> str:
    """sha256 of the noise: another build of torch may draw other numbers."""
    return hashlib.sha256(seeded_noise(shape, seed).numpy().data).hexdigest()


class NoisedTrajectory(Trajectory):
    """All levels of a clean state under one noise. Holds two states while it makes one."""

    def __init__(self, objects: Objects, key: str, names: Mapping[str, str], record: Mapping[str, Any], verify: bool):
        super().__init__(objects, key, names, record, verify)
        noise = record["noise"]
        self._seed, self._thetas = int(noise["seed"]), [float(theta) for theta in noise["thetas"]]
        if noise_sha256(self.shape[1:], self._seed) != noise["sha256"]:
            problem = f"torch {torch.__version__} draws another noise than the one it was made with"
            raise CorruptObject(f"trajectory {key}: {problem}; run again, which sets it aside and makes it anew")

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(range(self.shape[0]))

    def read(self, level: int) -> Tensor:
        if level not in range(self.shape[0]):
            raise BadSpec(f"trajectory {self.key}: level {level} isn't there; use one of {list(self.levels)}")
        return noised_state(super().read(0), self._thetas[level], self._seed)
