"""The edits of a clip of several windows: scene by scene, the windows of each together, and joined again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import NamedTuple

import numpy as np
from torch import Tensor

from cogvideo_core.diffusion.joint import Windows, edit_jointly
from cogvideo_core.errors import ClipError, CorruptObject
from cogvideo_core.media import film
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.stages import early, masks
from cogvideo_core.stages.denoise import Asked, asked_of, begun, conditioned, followed, levels_of
from cogvideo_core.stages.encode import read_latents
from cogvideo_core.stages.progress import Answers
from cogvideo_core.stages.trajectory import joint, set_aside, trajectory_of
from cogvideo_core.stages.units import Edit
from cogvideo_core.stages.whole import parsed
from cogvideo_core.stages.work import Record, Shared, Work
from cogvideo_core.storage.trajectories import Ahead

Scenes = list[Tensor]
"""The clean latents of each scene [f,C,h,w]."""


def several(record: Record) -> bool:
    """Whether a clip's edits are those of several windows together."""
    return len(record.get("windows", ())) > 1


def gathered(work: Work, record: Record) -> Record:
    """What the clip's record has of all its windows: the key of their trajectories together, and the report of the one
    that was reconstructed worst."""
    about, reports = joint(work, record), [window.get("reconstruction", {}) for window in record["windows"]]
    known = [report for report in reports if "below_vae_db" in report]
    worst = {"reconstruction": max(known, key=lambda report: report["below_vae_db"])} if known else {}
    latents = fingerprint([own["latents_key"] for own in record["window_keys"]])
    return {"latents_key": latents, "trajectory_key": fingerprint(about), "joint": about} | worst


def check_recipe(record: Record, batch: Sequence[Edit], asked: Asked) -> None:
    """Raises ClipError for what only clips of one window can have."""
    if asked.recipe.colour_transfer:
        problem = f"its edit {batch[0]['target_prompt'][:60]!r} asks for recipe.colour_transfer, which needs one window"
        raise ClipError(record["clip"], problem, "turn it off, or set dataset.window to first, middle or all")


def denoised(work: Work, record: Record, batch: Sequence[Edit], shared: Shared) -> early.Denoised:
    """`denoise_scenes`; damaged trajectories are set aside and made again, once."""
    try:
        return denoise_scenes(work, record, batch, shared)
    except CorruptObject:
        for window in record["windows"]:
            set_aside(work, window["trajectory_key"])
        shared.trajectories.clear()
        return denoise_scenes(work, record, batch, shared)


def denoise_scenes(work: Work, record: Record, batch: Sequence[Edit], shared: Shared) -> early.Denoised:
    """A batch of edits of one clip and recipe, scene after scene. Those that the judge gives up in the first scene are
    not made in the others."""
    asked, whole, found, spent = asked_of(work, record, batch), parsed(record["whole"]), list[Tensor](), 0
    check_recipe(record, batch, asked)
    watch, keys = early.Watch(work, record, batch, asked.recipe, shared), [edit["edit_key"] for edit in batch]
    for number in range(len(whole.scenes)):
        if not watch.left:
            break
        with ExitStack() as stack:
            answers = stack.enter_context(Answers(work, keys, number))
            found.append(_scene(work, record, number, asked, watch, shared, Opened(stack, answers)))
        spent += answers.spent
        watch.looks = {}
    finished = [[scene[edit].cpu() for scene in found] for edit in range(len(watch.left))]
    return early.Denoised(watch.left, finished, watch.stops, watch.early, spent)


class Opened(NamedTuple):
    """What is open while a scene is denoised: readers of trajectories, which the stack closes, and the answers."""

    stack: ExitStack
    answers: Answers


def _scene(
    work: Work, record: Record, number: int, asked: Asked, watch: early.Watch, shared: Shared, opened: Opened
) -> Tensor:
    """The clean latents [E,f,C,h,w] of the edits that the watch has not given up."""
    whole = parsed(record["whole"])
    layout, own = whole.layouts[number], windows_in(record, number)
    levels = levels_of(work, asked, bool(record["mask_key"]))
    velocities = [opened.answers.of(conditioned(work, window)) for window in own]
    states = [opened.stack.enter_context(Ahead(trajectory_of(work, each, shared), levels)) for each in own]
    windows, batch = Windows(layout, velocities, states), list(watch.left)
    scene = whole.scenes[number]
    masks.prepare(work, record, velocities[0], states[0], shared)
    kept = masks.batch_masks(work, record, batch, asked.recipe, shared, (scene.begin, scene.begin + scene.covered))
    x, texts = begun(work, batch, asked, windows.state, kept)
    steps = edit_jointly(windows, x, texts, asked.schedule, asked.recipe, work.model.layers)
    return followed(work, steps, x, asked, watch)


def windows_in(record: Record, scene: int) -> list[Record]:
    """The records of a scene's windows."""
    places = parsed(record["whole"]).windows
    return [window for window, place in zip(record["windows"], places, strict=True) if place.scene == scene]


def decoded(work: Work, record: Record, scenes: Scenes) -> np.ndarray:
    """The clip of these scenes as the VAE shows it: frames uint8 [F,H,W,3], on disk."""
    return film.on_disk(chain.from_iterable(_shown(work, record, n, latents) for n, latents in enumerate(scenes)))


def _shown(work: Work, record: Record, number: int, latents: Tensor) -> Iterator[np.ndarray]:
    """A scene's frames, part by part, without those behind its cut."""
    scene, layout = ((each[number]) for each in (parsed(record["whole"]).scenes, parsed(record["whole"]).layouts))
    parts = [work.model.decode(latents)] if len(layout) == 1 else work.model.decode_sequence(latents)
    left = scene.frames
    for part in parts:
        if left > 0:
            yield part[:left]
        left -= len(part)


def vae_source(work: Work, record: Record) -> np.ndarray:
    """What the VAE alone makes of the clip: frames uint8 [F,H,W,3], on disk."""
    return decoded(work, record, [source_latents(work, record, n) for n in range(len(parsed(record["whole"]).scenes))])


def source_latents(work: Work, record: Record, scene: int) -> Tensor:
    """The clean latents of a scene [f,C,h,w], from those of its windows."""
    layout = parsed(record["whole"]).layouts[scene]
    slices = [read_latents(work, window["latents_key"])["latents"] for window in windows_in(record, scene)]
    found = slices[0].new_empty(layout.latents, *slices[0].shape[1:])
    for part, place in zip(slices, layout.slices(), strict=True):
        found[place] = part
    return found
