"""How many edits of a clip share a call of a loaded model: as the settings say, or as memory has room for."""

from __future__ import annotations

import contextlib
import json

from cogvideo_core.models import memory, placement
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import EngineSpec, RecipeSpec


def edits_per_batch(model: VideoModel, engine: EngineSpec, recipe: RecipeSpec, latents: memory.Latents) -> int:
    """`EngineSpec.edits_per_batch`, or if 0 as many as memory has room for; the same throughout the process."""
    kind = (latents, recipe.fingerprint)
    # no call is running, whose memory would not count as free
    with model.lock, model.room.lane.held() if model.room.lane else contextlib.nullcontext():
        if engine.edits_per_batch == 0 and kind not in model.room.chosen:
            per_row = memory.row_bytes(model.transformer.config, latents, model.transformer.dtype)
            model.room.chosen[kind] = memory.edits_that_fit(
                memory.free_bytes(model.device) - _to_come(model, latents), per_row, recipe
            )
        return engine.edits_per_batch or model.room.chosen[kind]


def _to_come(model: VideoModel, latents: memory.Latents) -> int:
    """Bytes that a call finds taken: weights that offloading has yet to bring to the device, decoding beside it."""
    if model.room.lane and model.room.lane.beside:
        f, _, h, w = latents
        frames = 4 * (f - model.front_padding - 1) + 1
        size = (frames, h * model.pixels_a_cell, w * model.pixels_a_cell)
        vae = model.vae.module
        return placement.decoding(json.dumps(dict(vae.config)), size, vae.dtype, vae.use_tiling)[0]
    if model.spec.offload != "model":
        return 0
    return sum(p.nbytes for p in model.transformer.parameters() if p.device.type != model.device.type)


def told(model: VideoModel, engine: EngineSpec, recipe: RecipeSpec, latents: memory.Latents) -> str:
    """The plan in words, for the log: "about 1,473 MiB a row, up to 4 edits (9 rows) a call"."""
    edits = edits_per_batch(model, engine, recipe, latents)
    mib = memory.row_bytes(model.transformer.config, latents, model.transformer.dtype) / 2**20
    return f"about {mib:,.0f} MiB a row, up to {edits} edits ({memory.most_rows(recipe, edits)} rows) a call"
