"""Masks that a detector or SAM 2 finds in a clip's window: `find WORDS`, `track x y`, `track x y w h`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cogvideo_core.errors import CorruptObject, NotAMask
from cogvideo_core.inputs import masks
from cogvideo_core.media import masks as pixels
from cogvideo_core.media.masks import Place
from cogvideo_core.models.file_hashes import digest_of
from cogvideo_core.models.model_folders import checked_folder, loaded_from
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.stages.judge import stored_frames
from cogvideo_core.stages.units import FORMAT
from cogvideo_core.stages.work import Record, Work
from cogvideo_core.storage.bits import commit_mask

if TYPE_CHECKING:
    from cogvideo_core.models.finders import Detector, Segmenter

ABOUT = {"detector": "a detector (Grounding DINO, OWLv2)", "segmenter": "SAM 2"}


def check_finders(mask: MaskSpec) -> dict[str, Path]:
    """The checked folders of the models that are named. Raises ModelError."""
    from cogvideo_core.models.finders import DETECTORS, SEGMENTERS

    wanted = {"detector": (mask.detector, DETECTORS), "segmenter": (mask.segmenter, SEGMENTERS)}
    return {name: checked_folder(f"mask.{name}", path, kinds) for name, (path, kinds) in wanted.items() if path}


def encode_found(work: Work, record: Record, text: str, place: Place) -> str:
    """The key of a mask that models find; it is found and committed where it is missing. The models' fingerprints, the
    words and the clip's latents are the key. Raises NotAMask, ModelError."""
    folders = _needed(text, check_finders(work.mask))
    models = {name: digest_of(loaded_from(folder)) for name, folder in folders.items()}
    spec = {"format": FORMAT, "found": text, "latents": record["latents_key"], "models": models}
    spec |= {"least_score": work.mask.least_score} if "detector" in models else {}
    spec |= {"invert": True} if work.mask.invert else {}
    key = fingerprint(spec)
    if work.find("latents", key) is None:
        mask = _found(work, record, text, place, folders)
        commit_mask(work.ledger, key, ~mask if work.mask.invert else mask, spec)
    return key


def _needed(text: str, folders: dict[str, Path]) -> dict[str, Path]:
    """The folders of the models that this mask takes."""
    need = "detector" if masks.words(text) else "segmenter"
    if need not in folders:
        problem = f"it takes {ABOUT[need]}, and none is named"
        raise NotAMask(text, problem, f"set mask.{need} to its folder or hub id, or give a mask")
    return folders if need == "detector" else {need: folders[need]}


def _found(work: Work, record: Record, text: str, place: Place, folders: dict[str, Path]) -> np.ndarray:
    """bool [F,H,W]."""
    commit, words = work.find("sources", record["source_key"]), masks.words(text)
    if commit is None:
        raise CorruptObject(f"source {record['source_key'][:12]} is missing or damaged and was set aside; run again")
    frames = stored_frames(work.ledger, commit, "source.mp4", record)
    paths = [str(folders.get(name, "")) for name in ("detector", "segmenter")]
    detector, segmenter = _loaded(*paths, work.model.device)
    if words is None:
        shown = _pointed(text, place)
        mask = segmenter.masks(frames, dict.fromkeys(range(1 if segmenter.follows else len(frames)), shown))
    else:
        mask = _by_words(frames, words, work.mask.least_score, detector, segmenter)
    return _checked(text, mask, words is not None)


def _by_words(
    frames: np.ndarray, words: str, least: float, detector: Detector, segmenter: Segmenter | None
) -> np.ndarray:
    """What the detector finds in each frame, as boxes or as SAM 2 outlines them; a video model of SAM 2 follows what is
    seen best."""
    from cogvideo_core.models.finders import LOOKS, detected

    follows = segmenter is not None and segmenter.follows
    found = detected(detector, frames, words, least, LOOKS if follows else 0)
    if segmenter is not None:
        return segmenter.masks(frames, found)
    mask = np.zeros(frames.shape[:3], bool)
    for frame, boxes in found.items():
        for x0, y0, x1, y1 in boxes:
            mask[frame, int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask


def _checked(text: str, mask: np.ndarray, words: bool) -> np.ndarray:
    if not mask.any():
        problem = "nothing like that is found in the window" if words else "nothing is outlined there"
        remedy = "use other words, lower mask.least_score, or give a mask" if words else "point at the object's middle"
        raise NotAMask(text, problem, remedy)
    if mask.all():
        raise NotAMask(text, "all of the picture is found", "name a smaller thing, or write none for no mask")
    return mask


def _pointed(text: str, place: Place) -> list[tuple[float, ...]]:
    """A point or box of the clip's picture, in pixels of the model's frames."""
    x, y, w, h = (*(masks.tracked(text) or ()), 0.0, 0.0)[:4]
    (x0, y0), (x1, y1) = pixels.seen_at(x, y, place), pixels.seen_at(x + w, y + h, place)
    right, low = place.view.width - 1, place.view.height - 1
    if x0 > right or y0 > low or x1 < 0 or y1 < 0:
        problem = "it points outside of what the model sees of the clip"
        raise NotAMask(text, problem, "point elsewhere, or change dataset.fit")
    corner = (max(x0, 0.0), max(y0, 0.0))
    return [(*corner, min(x1, right + 1.0), min(y1, low + 1.0)) if w else corner]


@lru_cache(maxsize=1)
def _loaded(detector: str, segmenter: str, device: torch.device) -> Any:
    """This process's models, None where there is none."""
    from cogvideo_core.models.finders import Detector, Segmenter

    return Detector(Path(detector), device) if detector else None, (
        Segmenter(Path(segmenter), device) if segmenter else None
    )
