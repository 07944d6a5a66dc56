"""Noise levels of a run as angles: θ_t = arccos √ᾱ_t, with ᾱ from the checkpoint's own scheduler configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import CogVideoXDDIMScheduler

from cogvideo_core.errors import BadSpec

CLEAN = -1  # the timestep that stands for the clean end of the grid
COSINE = "cosine"  # the one spacing that diffusers does not have


@dataclass(frozen=True)
class Schedule:
    """N steps between N+1 levels. Level 0 is clean; step i starts from level N - i and is conditioned on its timestep.

    thetas: radians in float64, ascending by level; thetas[0] belongs to the clean end.
    timesteps: by level, timesteps[0] = CLEAN.
    """

    timesteps: tuple[int, ...]
    thetas: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.timesteps) - 1

    def level(self, step: int) -> int:
        """The level that step i (0 = noisiest) starts from."""
        return self.steps - step


def angles(alphas_cumprod: np.ndarray) -> np.ndarray:
    """θ = atan2(√(1-ᾱ), √ᾱ), float64 radians: finite and exact at zero SNR, where ᾱ = 0."""
    alphas_cumprod = np.asarray(alphas_cumprod, dtype=np.float64)
    return np.arctan2(np.sqrt(1 - alphas_cumprod), np.sqrt(alphas_cumprod))


def cosine_timesteps(train_steps: int, steps: int) -> list[int]:
    """T · (1 - cos πi/N) / 2 for i = 1 .. N, counted from 0: short steps at both ends, long ones between; ascending.

    All are distinct, and the last is the noisiest.
    """
    nodes = np.arange(1, steps + 1)
    wanted = np.round(train_steps * (1 - np.cos(np.pi * nodes / steps)) / 2).astype(int) - 1
    # timesteps that round to the same one move up, and back from the end where there is no more room
    rising = np.maximum.accumulate(np.maximum(wanted, 0) - nodes) + nodes
    return [int(t) for t in np.minimum(rising, train_steps - 1 - (steps - nodes))]


def _spaced(scheduler: CogVideoXDDIMScheduler, steps: int) -> list[int]:
    """diffusers' own timesteps, ascending; it gives one too many at N = 61, say: its t = -1."""
    scheduler.set_timesteps(steps)
    return [int(t) for t in scheduler.timesteps][:steps][::-1]


def schedule_from_config(config: Mapping[str, Any], steps: int, spacing: str = "trailing") -> Schedule:
    """The schedule of a checkpoint whose scheduler is of the DDIM or the DPM class; both share their noise schedule.

    Each step goes to the next timestep of the grid. diffusers goes to t - 1000 // N, which leaves its own grid
    where N does not divide 1000.
    """
    if config.get("prediction_type") != "v_prediction":
        raise BadSpec(
            f"field model: the scheduler predicts {config.get('prediction_type')!r}; only v_prediction "
            "checkpoints (all released CogVideoX) are supported"
        )
    train_steps = int(config.get("num_train_timesteps", 1000))
    if steps > train_steps:
        raise BadSpec(f"field steps: {steps} is more than the model's {train_steps} timesteps; use fewer")
    known = {k: v for k, v in config.items() if not k.startswith("_")}
    scheduler = CogVideoXDDIMScheduler.from_config(known | ({"timestep_spacing": spacing} if spacing != COSINE else {}))
    ascending = cosine_timesteps(train_steps, steps) if spacing == COSINE else _spaced(scheduler, steps)
    alphas = scheduler.alphas_cumprod.double().numpy()
    thetas = angles(np.array([float(scheduler.final_alpha_cumprod), *alphas[ascending]]))
    return Schedule((CLEAN, *ascending), tuple(float(theta) for theta in thetas))
