"""What a run will cost, from seconds measured on this device with this model."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from cogvideo_core.diffusion import auto_masks
from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.diffusion.guidance import window
from cogvideo_core.diffusion.inversion import evaluations
from cogvideo_core.models import batching, memory
from cogvideo_core.models.model import VideoModel, VideoShape
from cogvideo_core.planning.tables import Planned
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.overrides import override_text
from cogvideo_core.settings.recipes import RECIPES
from cogvideo_core.settings.specs import EngineSpec, InversionSpec, RecipeSpec
from cogvideo_core.stages.gate import gate_evaluations, highest_level
from cogvideo_core.stages.units import Readers, levels_kept

Row = tuple[str, str]


class Measured(NamedTuple):
    """Seconds on one device."""

    step_s: float  # an evaluation of one row, as an inversion makes them
    row_s: float  # a row of a full call of edits
    rows: int  # of that call
    edits: int  # of that call
    encode_s: float  # a clip through the VAE
    decode_s: float  # an edit through the VAE
    judge_s: float = 0.0  # an edit by the judges; the question judge is not asked


def measure(model: VideoModel, shape: VideoShape, recipe: RecipeSpec, engine: EngineSpec, repeats: int = 2) -> Measured:
    """Times the model on noise of the clips' size; the first call of each kind warms up and is not counted."""
    latents = model.latents(shape.frames, shape.height, shape.width)
    edits = batching.edits_per_batch(model, engine, recipe, latents)
    rows, x = memory.most_rows(recipe, edits), torch.zeros(latents)
    text = torch.zeros(1, model.text_tokens, model.transformer.config.text_embed_dim)
    velocity = model.conditioned(x[0] if model.image_to_video else None)
    shared = rows - memory.most_rows(recipe.model_copy(update={"reference_weight": 0.0}), edits)
    layers = window(recipe.layer_start, recipe.layer_end, model.layers)
    reference = Reference(shared, layers, recipe.reference_weight, recipe.reference_text) if shared else None
    frames = np.zeros((shape.frames, shape.height, shape.width, 3), np.uint8)
    call_s = _seconds(
        lambda: velocity(x.expand(rows, *latents), 500, text.expand(rows, -1, -1), reference).sum().item(), repeats
    )
    return Measured(
        _seconds(lambda: velocity(x[None], 500, text).sum().item(), repeats),
        call_s / rows,
        rows,
        edits,
        _seconds(lambda: model.encode(frames), repeats),
        _seconds(lambda: model.decode(x), repeats),
    )


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """The shortest of a few calls."""
    call()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


def measure_judge(judge: JudgeSpec, shape: VideoShape, repeats: int = 2) -> float:
    """Seconds in which the judges that are named see an edit of this size; 0 without any. Raises ModelError."""
    if not judge.measures:
        return 0.0
    from cogvideo_core.judging import judges

    frames = np.random.default_rng(0).integers(0, 256, (shape.frames, shape.height, shape.width, 3), np.uint8)
    found = judges.loaded(judge)
    return _seconds(lambda: found.scores(frames, [frames], [judges.Wish("a red circle", "a blue circle")]), repeats)


class Estimate(NamedTuple):
    """The cost of a whole plan, as if nothing were done yet."""

    inversion_s: float
    edit_s: float
    vae_s: float
    judge_s: float
    stored_bytes: int  # trajectories and latents; videos are not in it
    workers: int
    mask_s: float = 0.0  # in which masks are found

    @property
    def gpu_hours(self) -> float:
        return (self.inversion_s + self.edit_s + self.vae_s + self.judge_s + self.mask_s) / 3600

    @property
    def wall_hours(self) -> float:
        """With every worker's model busy all the time."""
        return self.gpu_hours / self.workers


def estimate(
    planned: Planned,
    measured: Measured,
    model: VideoModel,
    shape: VideoShape,
    inversion: InversionSpec,
    recipe: RecipeSpec,
    workers: int = 1,
) -> Estimate:
    """Seconds and bytes of a plan whose clips have about the same number of edits each."""
    clips, latents = planned["clips"], model.latents(shape.frames, shape.height, shape.width)
    windows, lengths = _windows(planned, latents[0])
    own = [override_text({"recipe": name}) for name in planned.get("recipes", ()) if _known(recipe, name)]
    levels = levels_kept(inversion, recipe, model.layers, Readers(["", *own]))  # recipes of rows of their own too
    states = 1 if inversion.method == "none" else len(levels) if levels else inversion.steps + 1
    size = math.prod(latents)
    itemsize = getattr(torch, inversion.dtype).itemsize
    rows = clips * _rows_a_clip(planned, measured.edits, inversion.steps, recipe, model.layers)
    return Estimate(
        windows
        * (evaluations(inversion, highest_level(inversion, levels)) + gate_evaluations(inversion))
        * measured.step_s,
        rows * windows / max(clips, 1) * measured.row_s,
        lengths * measured.encode_s + planned["edits"] * lengths / max(clips, 1) * measured.decode_s,
        planned["edits"] * measured.judge_s,
        int(windows * size * (states * itemsize + 4)),
        workers,
        planned.get("mask_rows", 0) * len(auto_masks.levels(inversion.steps)) * measured.step_s,
    )


def _known(recipe: RecipeSpec, name: str) -> bool:
    """Whether a plan's recipe is the run's or a preset; of a recipe file, a plan knows the name alone."""
    return name == recipe.name or name in RECIPES


def _windows(planned: Planned, span: int) -> tuple[int, float]:
    """How many windows of `span` latent frames the clips have, and how many they would fill without overlap."""
    short = planned["clips"] - planned.get("long_clips", 0)
    return short + planned.get("windows", 0), short + planned.get("clip_latents", 0) / span


def overlap_of(planned: Planned) -> list[Row]:
    """What the plan's long clips are cut into, in words; nothing where it has none."""
    if not planned.get("windows"):
        return []
    more = planned["window_latents"] / planned["clip_latents"] - 1
    told = f"{planned['windows']:,} of {planned['long_clips']:,} clips that are edited as one"
    return [("windows", told), ("overlap", f"{100 * more:.0f} % more latent frames than without")]


def _rows_a_clip(planned: Planned, at_once: int, steps: int, recipe: RecipeSpec, layers: int) -> float:
    """Evaluations for an average clip's edits, in calls of at most `at_once` edits of a recipe; the ladder's are not
    among them."""

    def rows(name: str, edits: int) -> int:
        full, rest = divmod(edits, at_once)
        own = recipe.candidate(name) if _known(recipe, name) else recipe
        one = edit_evaluations(own, steps, at_once, layers)
        return full * one + (edit_evaluations(own, steps, rest, layers) if rest else 0)

    first = Counter(planned.get("recipes") or (variant.recipe for variant in recipe.rungs[0]))
    total = 0.0
    for name, count in first.items():
        mean = planned["edits"] / max(planned["clips"], 1) * count / first.total()
        below = math.floor(mean)
        total += rows(name, below) + (mean - below) * (rows(name, below + 1) - rows(name, below))
    return total


def rows_of(planned: Planned, measured: Measured, found: Estimate, device: str) -> list[Row]:
    """The estimate in words."""
    return [
        ("clips", f"{planned['clips']:,} in {planned['batches']:,} batches, {planned['waves']:,} waves"),
        *overlap_of(planned),
        ("refused rows", f"{planned['refused']:,}"),
        ("edits", f"{planned['edits']:,}"),
        ("device", device),
        ("inversion step", f"{measured.step_s:.4f} s"),
        ("edit row", f"{measured.row_s:.4f} s, in calls of {measured.edits} edits ({measured.rows} rows)"),
        ("VAE", f"{measured.encode_s:.3f} s to encode a clip, {measured.decode_s:.3f} s to decode an edit"),
        ("inversion", _hours(found.inversion_s)),
        ("editing", _hours(found.edit_s)),
        *([("finding masks", _hours(found.mask_s))] if found.mask_s else []),
        ("encoding and decoding", _hours(found.vae_s)),
        *([("judging", f"{_hours(found.judge_s)}, {measured.judge_s:.3f} s an edit")] if found.judge_s else []),
        ("an edit", f"{found.gpu_hours * 3600 / max(planned['edits'], 1):,.1f} s, its share of the inversion included"),
        ("GPU-hours", f"{found.gpu_hours:,.2f}"),
        ("wall time", f"{_hours(found.wall_hours * 3600)} on {found.workers} workers that are never idle"),
        ("stored", f"{found.stored_bytes / 1e9:,.2f} GB of trajectories and latents, videos not counted"),
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 3600 else f"{seconds:,.1f} s"
