"""One recipe on one clip, from its stored trajectory: edited, judged and thrown away; the scores and a strip remain."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor

from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.judging.judges import Wish, loaded
from cogvideo_core.models import memory
from cogvideo_core.models.model import VideoModel
from cogvideo_core.stages import edit
from cogvideo_core.stages.encode import read_latents
from cogvideo_core.stages.trajectory import plan_edits
from cogvideo_core.stages.units import Edit
from cogvideo_core.stages.work import Record, Shared, Work
from cogvideo_core.storage.uris import shown_clip
from cogvideo_core.tuning.space import Point
from cogvideo_core.tuning.trials import Seen

TILE_PX, SHOWN_EDITS = 112, 4
SOURCES_BYTES = 1 << 30
_sources: OrderedDict[str, np.ndarray] = OrderedDict()  # of this process, by the latents' key; the last ones used


@dataclass(frozen=True)
class AllBut:
    """Layers without a group; it stands where attention asks a range whether it holds a layer and where it ends."""

    layers: range
    left_out: range

    def __contains__(self, layer: int) -> bool:
        return layer in self.layers and layer not in self.left_out

    @property
    def stop(self) -> int:
        return max((layer + 1 for layer in self.layers if layer in self), default=0)


class Muted:
    """A model whose edits don't see the reference in a group of layers; otherwise the model itself."""

    def __init__(self, model: VideoModel, left_out: range) -> None:
        self._model, self._left_out = model, left_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def velocity(self, x: Tensor, t: int, text: Tensor, reference: Reference | None = None) -> Tensor:
        return self._model.velocity(x, t, text, self._without(reference))

    def conditioned(self, *images: Tensor | None) -> Callable[..., Tensor]:
        velocity = self._model.conditioned(*images)
        return lambda x, t, text, reference=None: velocity(x, t, text, self._without(reference))

    def _without(self, reference: Reference | None) -> Reference | None:
        if reference is None:
            return None
        return replace(reference, layers=cast(range, AllBut(reference.layers, self._left_out)))


def trial_work(work: Work, point: Point, left_out: range = range(0)) -> Work:
    """The run's work with a trial's recipe and steps. Nothing of an edit is kept, so nothing else is measured on it."""
    return replace(
        work,
        recipe=point.recipe,
        inversion=work.inversion.model_copy(update={"steps": point.steps, "save_steps": "all"}),
        output=work.output.model_copy(update={"keep_trajectories": "all", "scores": False}),
        judge=work.judge.model_copy(update={"vlm": "", "early_stop": "off"}),
        model=cast(VideoModel, Muted(work.model, left_out)) if left_out else work.model,
    )


def seen(work: Work, record: Record) -> Seen:
    """What the work's recipe makes of an inverted clip: scores of each edit, in the order of its prompts. Raises the
    project's errors, such as NotFinite."""
    shared, edits = Shared(lambda: source_of(work, record), None), plan_edits(work, record)
    size, frames, spent, todo = edit.batch_size(work, record, work.recipe), list[np.ndarray](), 0, list(edits)
    told = f"clip {shown_clip(record['clip'])!r}"
    while todo:
        part, done = memory.as_many_as_fit(
            todo[:size], work.model.room, lambda part: edit.denoised(work, record, part, shared), told
        )
        frames += [_finished(work, record, one, x, shared) for one, x in zip(part, done.latents, strict=True)]
        spent += edit_evaluations(work.recipe, work.inversion.steps, len(part), work.model.layers)
        todo = todo[len(part) :]
    wishes = [Wish(record["source_prompt"], one["target_prompt"]) for one in edits]
    scores = loaded(work.judge).scores(shared.source(), frames, wishes)
    return Seen(scores, strip([shared.source(), *frames[:SHOWN_EDITS]]), spent)


def _finished(work: Work, record: Record, one: Edit, latents: Tensor, shared: Shared) -> np.ndarray:
    return edit.finished(work, record, one, work.model.decode(latents), shared)[0]


def source_of(work: Work, record: Record) -> np.ndarray:
    """What the VAE alone makes of a clip: uint8 [F,H,W,3]. The last ones are kept, for each trial asks again."""
    key = f"{work.model.fingerprint} {work.model.spec.vae_dtype} {record['latents_key']}"
    if key not in _sources:
        _sources[key] = work.model.decode(read_latents(work, record["latents_key"])["latents"])
        while sum(frames.nbytes for frames in _sources.values()) > SOURCES_BYTES and len(_sources) > 1:
            _sources.popitem(last=False)
    _sources.move_to_end(key)
    return _sources[key]


def strip(videos: list[np.ndarray]) -> bytes:
    """The middle frames of videos uint8 [F,H,W,3] side by side, as a JPEG."""
    height, width = videos[0].shape[1:3]
    scale = TILE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.new("RGB", (len(videos) * (size[0] + 2) - 2, size[1]), "white")
    for place, frames in enumerate(videos):
        picture.paste(
            Image.fromarray(frames[len(frames) // 2].astype(np.uint8)).resize(size), (place * (size[0] + 2), 0)
        )
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
