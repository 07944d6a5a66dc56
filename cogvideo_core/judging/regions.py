"""Scores of an edit with a mask that need a model: LPIPS inside and outside, and the text judge in the mask's box."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from cogvideo_core.judging.judges import Scores, Wish, loaded
from cogvideo_core.judging.loading import device
from cogvideo_core.judging.metrics.lpips import Lpips
from cogvideo_core.judging.metrics.pixels import mean, unedited
from cogvideo_core.media.regions import LEAST_PIXELS, Mask
from cogvideo_core.media.window import spread
from cogvideo_core.models.model_folders import weights_folder
from cogvideo_core.settings.judge_specs import JudgeSpec

BY_TEXT = ("text_similarity", "text_choice")


def judged_regions(spec: JudgeSpec, source: np.ndarray, edit: np.ndarray, mask: Mask, wish: Wish) -> Scores:
    """outside_lpips, inside_lpips with `judge.lpips`; box_text_similarity, box_text_choice with a text judge. Frames
    uint8 [F,H,W,3]; `spec` has no `auto`. Raises ModelError, NotFinite."""
    source, edit, alpha = (spread(frames, spec.frames) for frames in (source, edit, mask.alpha))
    found: Scores = {}
    if spec.lpips:
        found |= _lpips_scores(spec.lpips, source, edit, mask._replace(alpha=alpha))
    if (judge := loaded(spec).text) is not None and (alpha > 0).any():
        rows, columns = box(alpha > 0)
        before, after = (judge.embed_frames(frames[:, rows, columns]) for frames in (source, edit))
        scores = judge.scores(before, after, wish.source_prompt, wish.target_prompt)
        found |= {f"box_{name}": scores[name] for name in BY_TEXT if name in scores}
    return {name: round(value, 5) for name, value in found.items() if math.isfinite(value)}


def _lpips_scores(folder: str, source: np.ndarray, edit: np.ndarray, mask: Mask) -> Scores:
    """Of each region with all else black in both; regions of a few pixels have none."""
    network, regions = _lpips(folder), {"outside_lpips": mask.outside, "inside_lpips": mask.inside}
    kept = {name: region for name, region in regions.items() if region.sum() >= LEAST_PIXELS}
    return {name: mean(network.distances(*unedited(source, edit, ~region))) for name, region in kept.items()}


@lru_cache(maxsize=1)
def _lpips(folder: str) -> Lpips:
    return Lpips(weights_folder("judge.lpips", folder), device(), "judge.lpips")


def box(marked: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the box around all that is marked in any frame of bool [F,H,W], which marks something."""
    rows, columns = np.nonzero(marked.any((0, 2)))[0], np.nonzero(marked.any((0, 1)))[0]
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
