"""The reconstruction gate: before a clip is edited, its inversion is sampled back and compared with the clip.

The score is in dB of pixel PSNR below the VAE's own ceiling: PSNR(decode(latents)) - PSNR(decode(sampled back)), both
against the source video. 3 dB mean that the inversion costs as much as the VAE does. Two forms:

- quick: from a fifth of the levels, 4 to 10 of them, instead of from the noisiest, and 17 frames at most. Only the
  trajectory's own grid is used, so that the measured error is a part of the true one, never that of a coarser sampler.
  It can miss what was lost at higher levels, as with ddim, and agrees with the full form for multistep and fixed_point
  (docs/inversion.md). As many evaluations as levels.
- full: from the noisiest level, all frames. N evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion.ddim import Velocity, sample
from cogvideo_core.diffusion.inversion import stronger
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.errors import OutOfMemory, PoorReconstruction, PoorVae
from cogvideo_core.media.quality import psnr
from cogvideo_core.models.memory import SMALLER, ran_out_of_memory
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import InversionSpec

Report = dict[str, Any]
QUICK_LATENT_FRAMES = 5
SCORES = {"reconstruction_db": "reconstruction_db", "vae_db": "vae_db", "below_vae_db": "reconstruction_below_vae_db"}


def gate_evaluations(settings: InversionSpec) -> int:
    """How many transformer rows one score costs; also the level that it starts from."""
    if settings.method == "none":
        return 0
    quick = min(max(4, math.ceil(settings.steps / 5)), 10, settings.steps)
    return {"off": 0, "quick": quick, "full": settings.steps}[settings.gate]


def highest_level(settings: InversionSpec, levels: Sequence[int] | None) -> int:
    """The noisiest level that an inversion has to reach for these kept levels, None for all, and for its score."""
    return settings.steps if levels is None else max(*levels, gate_evaluations(settings))


def tries(settings: InversionSpec) -> Iterator[InversionSpec]:
    """The inversions of a clip until one passes: as asked for, then with more iterations."""
    yield settings
    if gate_evaluations(settings):
        yield stronger(settings)


def watched(states: Iterator[Tensor], level: int, seen: dict[int, Tensor]) -> Iterator[Tensor]:
    """The states; `seen` keeps the clean one and the one at `level`."""
    for index, state in enumerate(states):
        if index in (0, level):
            seen[index] = state
        yield state


def judged(
    model: VideoModel,
    velocity: Velocity,
    schedule: Schedule,
    settings: InversionSpec,
    seen: dict[int, Tensor],
    frames: Callable[[int], np.ndarray],
) -> Report:
    """The score of one inversion: {} where the gate is off. frames(n) gives the first n of the source.

    `seen` holds the clean latents at 0 and the state to sample from at its level, which is rounded as it is stored.
    If memory runs out, the report is {"unjudged": why}, and the inversion itself is not lost.
    """
    level = gate_evaluations(settings)
    if not level:
        return {}
    x = seen[level].to(getattr(torch, settings.dtype)).float()
    try:
        *_, again = sample(velocity, x, schedule, schedule.steps - level)
        shown = seen[0].shape[0]
        if settings.gate == "quick":
            shown = min(shown, model.front_padding + QUICK_LATENT_FRAMES)
        ceiling, found = (model.decode(latents[:shown]) for latents in (seen[0], again))
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        return {"unjudged": str(error) if isinstance(error, OutOfMemory) else SMALLER}
    source = frames(len(ceiling))
    vae_db, reconstruction_db = psnr(ceiling, source), psnr(found, source)
    below = vae_db - reconstruction_db
    scores = {"reconstruction_db": reconstruction_db, "vae_db": vae_db, "below_vae_db": below}
    return {name: round(value, 3) for name, value in scores.items()} | {"passed": below <= settings.gate_threshold_db}


def check(clip: str, report: Report, settings: InversionSpec) -> None:
    """Raises for a clip that the gate did not let pass: PoorReconstruction, PoorVae for one whose ceiling is below the
    floor, OutOfMemory for one that could not be judged."""
    if why := report.get("unjudged", ""):
        raise OutOfMemory(f"clip {clip!r}: it is inverted, but its reconstruction could not be judged: {why}")
    if report.get("vae_db", math.inf) < settings.gate_floor_db:
        problem = (
            f"the VAE alone keeps {report['vae_db']:.1f} dB of it, less than gate_floor_db {settings.gate_floor_db:g}: "
            "its weights or their precision are at fault, or the clip is unlike all that the model knows"
        )
        raise PoorVae(clip, problem, "set model.vae_dtype to float32, check the model's files, or use another model")
    if report.get("passed", True):
        return
    problem = (
        f"its reconstruction is {report['below_vae_db']:.1f} dB below the VAE's own, more than gate_threshold_db "
        f"{settings.gate_threshold_db:g}, after {report['evaluations']} evaluations"
    )
    raise PoorReconstruction(clip, problem, "give it a fitting source prompt, raise inversion.steps, or remove it")


def scores(report: Report) -> dict[str, float]:
    """A clip's inversion scores for the tables."""
    return {name: report[key] for key, name in SCORES.items() if key in report}
