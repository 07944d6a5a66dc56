"""The mask of a clip's edits: from what its row says to pixels of the window, and to what the denoising is given.

Files are untrusted: videos are read as clips are, pictures as edited first frames are, NPZ files without pickles.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cogvideo_core.diffusion import auto_masks, editing
from cogvideo_core.diffusion.masks import Masks, cells_of, pixels_of, tokens_of
from cogvideo_core.errors import ClipError, CorruptObject, NotAMask, about_field
from cogvideo_core.inputs import clip_files, masks
from cogvideo_core.inputs.manifests import ending
from cogvideo_core.media import masks as pixels
from cogvideo_core.media import video
from cogvideo_core.media.colour import AREA
from cogvideo_core.media.masks import Pictures, Place
from cogvideo_core.media.still import read_image
from cogvideo_core.media.tools import VIDEO_ENDINGS
from cogvideo_core.models import batching
from cogvideo_core.settings.recipes import MASKED
from cogvideo_core.settings.specs import RecipeSpec, fingerprint
from cogvideo_core.stages.found_masks import encode_found
from cogvideo_core.stages.prompts import embeddings
from cogvideo_core.stages.units import FORMAT, Edit, held_by, part_of
from cogvideo_core.stages.wishes import recipes_of
from cogvideo_core.stages.work import Record, Shared, Work
from cogvideo_core.storage.bits import commit_mask, read_mask
from cogvideo_core.storage.uris import is_remote, open_store, resolve, scrubbed

TOO_LARGE = "give a smaller file, or a video"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PICTURES = 100_000


def encode_mask(work: Work, record: Record) -> Record:
    """`mask_key`: "" where the edits have no mask, auto where it is to be found, else the key of the window's mask,
    which is committed if it is missing. record: with the source's fields. Raises ClipError and its kinds."""
    text = _asked(work, record)
    if not text or text == masks.AUTO:
        _check_recipes(work, record, text)
        return {"mask_key": text}
    with about_field(record["clip"], "mask"):
        if masks.by_model(text):
            return {"mask_key": encode_found(work, record, text, _place(work, record))}
        mask = _read(work, record, text, _place(work, record))
        mask = ~mask if work.mask.invert else mask
        _check(text, mask)
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    spec = {"format": FORMAT, "mask": digest, "shape": list(mask.shape)}
    key = fingerprint(spec)
    if work.find("latents", key) is None:
        commit_mask(work.ledger, key, mask, spec)
    return {"mask_key": key}


def _check_recipes(work: Work, record: Record, text: str) -> None:
    """Refuses recipes that fill a mask anew where there is none. Raises ClipError."""
    named = [each.name for each in recipes_of(work.recipe, record.get("overrides")) if each.name in MASKED]
    if named and not text:
        problem = f"its recipe {named[0]!r} fills a mask anew, and it has none"
        raise ClipError(record["clip"], problem, "give its place in the column mask, or take another recipe")


def _asked(work: Work, record: Record) -> str:
    """What a row's mask comes from: "" for none, auto, a file or boxes."""
    text = masks.asked_mask(record.get("mask"), work.mask.use)
    if record.get("window_keys") and (text == masks.AUTO or masks.by_model(text)):
        problem = f"its mask can't be found, for it is edited in {len(record['window_keys'])} windows"
        raise ClipError(record["clip"], problem, "give a mask, write none, or set dataset.window to first or all")
    if text == masks.AUTO and not record["source_prompt"]:
        problem = "its mask can't be found without a source prompt, which the target prompts are compared with"
        raise ClipError(record["clip"], problem, "fill source_prompt, or give a mask")
    return text


def _place(work: Work, record: Record) -> Place:
    found, fps = video.Probe.from_json(record["probe"]), record["fps"]
    which = video.windows(found, record["clip"], record["frames"], fps, work.dataset.window, part_of(record))
    view = video.View(record["height"], record["width"], fps, work.dataset.fit, AREA)
    return Place(found, which[record["window"]], view)


def _check(name: str, mask: np.ndarray) -> None:
    told = "lighter than half, or inside a box"
    if not mask.any():
        raise NotAMask(name, f"no pixel of the window is marked ({told})", "correct it, or write none for no mask")
    if mask.all():
        problem = f"every pixel of the window is marked ({told})"
        raise NotAMask(name, problem, "correct it, or write none for no mask; mask.invert turns it round")


def _read(work: Work, record: Record, text: str, place: Place) -> np.ndarray:
    """The mask as its row says: bool [F,H,W] in the model's size."""
    boxes = masks.boxes(text)
    if boxes is not None:
        return pixels.frames_of(pixels.box_pictures(boxes, place.probe), text, *place)
    uri, kind = record["mask_uri"], ending(record["mask_uri"])
    if kind in VIDEO_ENDINGS:
        return _video(work, text, uri, place)
    if kind == ".npz":
        found = pixels.array_pictures(clip_files.small_file(text, uri, TOO_LARGE), text, work.dataset.max_pixels)
    elif kind in PICTURES:
        found = _pictures(work, text, [uri])
    elif os.path.isdir(uri) or (is_remote(uri) and not kind):
        found = _pictures(work, text, _listed(text, uri, work.dataset.allow_outside))
    else:
        remedy = "give a video, a picture (PNG, JPEG, WebP), a folder of pictures or an NPZ file"
        raise NotAMask(text, "it is no file of a known kind", remedy)
    return pixels.frames_of(found, text, *place)


def _video(work: Work, text: str, uri: str, place: Place) -> np.ndarray:
    named, limits = {"clip": text, "uri": uri, "size": 0, "source_id": "mask"}, video.Limits.of(work.dataset)
    with tempfile.TemporaryDirectory() as folder:
        path = clip_files.fetch(named, Path(folder), limits.max_bytes)
        found = video.probe(path, text, limits)
        wide, high, aspect = found.shown
        pixels.shaped(round(wide * aspect), high, text, place.probe)
        frames = video.decode(path, text, found, place.window, place.view, limits)
    return frames.max(-1) >= pixels.LIGHT


def _pictures(work: Work, text: str, uris: Sequence[str]) -> Pictures:
    def picture(index: int) -> np.ndarray:
        image = read_image(
            clip_files.small_file(text, uris[index], TOO_LARGE),
            posixpath.basename(uris[index]),
            work.dataset.max_pixels,
        )
        return np.asarray(image).max(-1)  # of R, G and B: label pictures have colours

    return Pictures(len(uris), picture)


def _listed(text: str, uri: str, allow_outside: bool) -> list[str]:
    """The pictures of a folder in the order of the numbers in their names. Raises NotAMask."""
    try:
        store, path = (None, uri) if not is_remote(uri) else open_store(uri)
        names = os.listdir(path) if store is None else [posixpath.basename(n) for n in store.ls(path, detail=False)]
    except Exception as error:  # every store has its own classes
        raise NotAMask(text, f"its folder can't be read ({scrubbed(error)})", "check address and access") from error
    found = sorted((name for name in names if ending(name) in PICTURES and not name.startswith(".")), key=_numbered)
    if not 0 < len(found) <= MAX_PICTURES:
        raise NotAMask(text, f"its folder holds {len(found)} pictures", f"put 1 to {MAX_PICTURES} PNG files in it")
    return [resolve(name, uri, allow_outside) for name in found]


def _numbered(name: str) -> list[Any]:
    """Sorts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def prepare(
    work: Work, record: Record, velocity: editing.RowVelocity, trajectory: editing.Trajectory, shared: Shared
) -> None:
    """Fills `shared.masks` for `mask_of`: read, or found for all prompts of the row."""
    key = record.get("mask_key", "")
    if key == masks.AUTO and not shared.masks:
        shared.masks.update(_found(work, record, velocity, trajectory))
    elif key and not shared.masks:
        shared.masks[""] = _stored(work, key)


def mask_of(record: Record, prompt: str, shared: Shared) -> np.ndarray | None:
    """Where an edit may change its clip, before that is widened: bool [F,H,W]; None where it has no mask."""
    key = record.get("mask_key", "")
    return shared.masks[prompt if key == masks.AUTO else ""] if key else None


def _stored(work: Work, key: str) -> np.ndarray:
    commit = work.ledger.find("latents", key, "full")
    if commit is None:
        raise CorruptObject(f"mask {key[:12]} is missing or damaged and was set aside; run again")
    return read_mask(work.ledger, commit)


def _found(
    work: Work, record: Record, velocity: editing.RowVelocity, trajectory: editing.Trajectory
) -> dict[str, np.ndarray]:
    """The masks of all prompts of a row, by prompt: found together, so that none depends on what is edited already."""
    model, prompts = work.model, list(dict.fromkeys(record["target_prompts"]))
    text = embeddings(model, work.ledger, [record["source_prompt"], *prompts])
    schedule = model.schedule(work.inversion.steps, work.inversion.spacing)
    latents = model.latents(record["frames"], record["height"], record["width"])
    at_once = batching.edits_per_batch(model, work.engine, work.recipe, latents)
    states = {level: trajectory(level).float().to(model.device) for level in auto_masks.levels(schedule.steps)}
    differing = auto_masks.differences(velocity, states.__getitem__, schedule, text, at_once)
    cells = auto_masks.found(differing.cpu(), work.mask.threshold)
    as_pixels = partial(pixels_of, cell_px=model.pixels_a_cell, front_padding=model.front_padding)
    return {prompt: as_pixels(one).numpy() for prompt, one in zip(prompts, cells, strict=True)}


def evaluations(work: Work, record: Record) -> int:
    """What finding a row's masks costs, once."""
    auto = record.get("mask_key", "") == masks.AUTO
    return len(auto_masks.levels(work.inversion.steps)) * (1 + len({*record["target_prompts"]})) if auto else 0


def alpha_of(work: Work, mask: np.ndarray) -> np.ndarray:
    """How far each pixel may change: float32 [F,H,W]."""
    return pixels.alpha_of(mask, work.mask.grow_px, work.mask.feather_px)


def batch_masks(
    work: Work,
    record: Record,
    batch: Sequence[Edit],
    recipe: RecipeSpec,
    shared: Shared,
    frames: tuple[int, int] | None = None,
) -> Masks | None:
    """What the denoising of a batch is given, on the model's device; None without masks. frames: of a scene, from the
    first to before the second; None: all."""
    found = [mask_of(record, edit["target_prompt"], shared) for edit in batch]
    alphas = [torch.from_numpy(alpha_of(work, mask[slice(*(frames or (None,)))])) for mask in found if mask is not None]
    if not alphas:
        return None
    model, config = work.model, work.model.transformer_config
    cells = torch.stack([cells_of(alpha, model.pixels_a_cell, model.front_padding) for alpha in alphas])
    cells = cells.to(model.device)
    seen = work.mask.preserve != "latents" and recipe.reference_weight > 0
    tokens = tokens_of(cells, config.patch_size, config.patch_size_t or 1) if seen else None
    return Masks(cells, tokens, held_by(work.mask, recipe, work.inversion.steps))
