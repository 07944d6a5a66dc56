"""What is done to one clip after it is inverted: its edits, and those of the ladder where the judge rejects them.

A stage takes a JSON record and returns it with more fields; tensors stay in the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from itertools import count

import numpy as np

from cogvideo_core.errors import CorruptObject, FrozenEdit
from cogvideo_core.judging import policy
from cogvideo_core.media.film import stands_still
from cogvideo_core.media.masks import pasted
from cogvideo_core.media.outlines import outline
from cogvideo_core.media.quality import colour_transferred, preserved_scores
from cogvideo_core.media.regions import Mask, region_scores
from cogvideo_core.models import batching, memory
from cogvideo_core.settings.specs import RecipeSpec
from cogvideo_core.stages import early, gate, masks, progress, whole_edit
from cogvideo_core.stages.denoise import denoise_batch
from cogvideo_core.stages.encode import read_latents
from cogvideo_core.stages.invert import source_frames
from cogvideo_core.stages.judge import (
    all_scores,
    calibration_of,
    judge_edit,
    judge_fingerprint,
    judge_stored,
    masked_scores,
)
from cogvideo_core.stages.results import Made, commit_edit, committed_outline, committed_scores, edit_row
from cogvideo_core.stages.trajectory import drop_trajectory, plan_edits, set_aside, trajectory_of
from cogvideo_core.stages.units import Edit, pending_batches
from cogvideo_core.stages.whole import parsed, whole_of
from cogvideo_core.stages.wishes import Prompt, asked_of, identity, prompts_of, recipe_of
from cogvideo_core.stages.work import Record, Shared, Work, timed
from cogvideo_core.storage.ledger import Commit
from cogvideo_core.storage.uris import shown_clip

OF_WINDOWS = ("windows", "window_keys", "joint")  # of a record, for its edits alone


def edit_clip(work: Work, record: Record) -> Record:
    """Adds `edits`: one row for each planned edit, all committed or given up early. An interrupted batch is redone
    whole. A prompt of which the judge rejects every edit is tried again with the next preset of the recipe's ladder,
    unless its row names a recipe.
    """
    record, prompts, rows = dict(record), prompts_of(record), list[Record]()
    record |= whole_edit.gathered(work, record) if whole_edit.several(record) else {}
    source = cache(lambda: vae_source(work, record))
    shared = Shared(source, calibration_of(work.ledger, work.judge))
    for rung in count():
        edits = plan_edits(work, record, prompts, rung)
        if not edits:  # no prompt is left, or no rung
            break
        found = made(work, record, edits, shared)
        judge_stored(work.ledger, work.judge, [row for row in found if row["state"] == "done"])
        rows += found
        passed = _passed(work, found, shared.calibration)
        prompts = [prompt for prompt in prompts if _failed(work, prompt, rung, edits, passed)]
    if work.output.keep_trajectories != "all":
        for window in record.get("windows") or [record]:
            drop_trajectory(work, window["trajectory_key"])
    return {name: value for name, value in record.items() if name not in OF_WINDOWS} | {"edits": rows}


def vae_source(work: Work, record: Record) -> np.ndarray:
    """What the VAE alone makes of the clip: frames uint8 [F,H,W,3]."""
    if whole_edit.several(record):
        return whole_edit.vae_source(work, record)
    return work.model.decode(read_latents(work, record["latents_key"])["latents"])


def _passed(work: Work, rows: Sequence[Record], calibration: policy.Calibration | None) -> set[str]:
    """The keys of the edits that were not rejected; unjudged ones are not tried again either."""
    judge = judge_fingerprint(work.judge)
    done = [row for row in rows if row["state"] == "done"]
    verdicts = [policy.decide(all_scores(work.ledger, row, judge), work.judge, calibration).verdict for row in done]
    return {row["edit_key"] for row, verdict in zip(done, verdicts, strict=True) if verdict != "rejected"}


def _failed(work: Work, prompt: Prompt, rung: int, edits: Sequence[Edit], passed: set[str]) -> bool:
    """Whether a prompt has edits on this rung, and none of them has passed. Rows may ask for one text in two ways."""
    keys = {identity(edit): edit["edit_key"] for edit in edits}
    own = [keys[identity(asked)] for asked, _ in asked_of(work.recipe, [prompt], rung)]
    return bool(own) and not passed.intersection(own)


def made(work: Work, record: Record, edits: Sequence[Edit], shared: Shared) -> list[Record]:
    """The rows of these edits, those that are missing computed, recipe by recipe."""
    with timed(record, "edit") as timing:
        commits = {edit["edit_key"]: early.committed(work, edit["edit_key"], shared.calibration) for edit in edits}
        batch_of = {key: commit.record.get("batch", []) for key, commit in commits.items() if commit}
        timing |= {"reused": True, "edits": len(batch_of)}
    for kind in dict.fromkeys(map(_kind, edits)):
        own = [edit for edit in edits if _kind(edit) == kind]
        recipe = recipe_of(work.recipe, own[0])
        todo = deque(pending_batches(own, batch_of, batch_size(work, record, recipe)))
        while todo:
            batch = todo.popleft()
            with timed(record, "edit") as timing:
                done, timing["evaluations"] = edit_batch(work, record, batch, shared)
                timing["edits"] = len(done)
            commits |= done
            if len(done) < len(batch):
                todo.appendleft(batch[len(done) :])
    return [
        _row(work, record, edit, commits[edit["edit_key"]]) | {"reused": edit["edit_key"] in batch_of} for edit in edits
    ]


def _kind(edit: Edit) -> tuple[str, str, str]:
    """Edits that agree in this can be denoised together."""
    return edit["recipe"], edit["negative_prompt"], edit.get("own_recipe", "")


def _row(work: Work, record: Record, edit: Edit, commit: Commit | None) -> Record:
    row = commit.record.get("row", {}) if commit else {}
    if row.get("state") == "stopped":
        return dict(row) | {"clip": record["clip"]}
    return edit_row(work, record, edit, committed_scores(commit)) | committed_outline(commit)


def batch_size(work: Work, record: Record, recipe: RecipeSpec) -> int:
    """The most edits by a recipe that are denoised together."""
    whole = whole_of(record)
    latents = work.model.latents(whole.length if whole else record["frames"], record["height"], record["width"])
    return batching.edits_per_batch(work.model, work.engine, recipe, latents)


def edit_batch(work: Work, record: Record, batch: Sequence[Edit], shared: Shared) -> tuple[dict[str, Commit], int]:
    """Computes a planned batch of one recipe, or as many of its first edits as memory has room for; their commits by
    key, and the evaluations that they cost. Raises FrozenEdit after committing all usable edits.
    """
    told = f"clip {shown_clip(record['clip'])!r}"
    known, several = bool(shared.masks), whole_edit.several(record)
    part, found = memory.as_many_as_fit(batch, work.model.room, lambda part: denoised(work, record, part, shared), told)
    together, recipe = [edit["edit_key"] for edit in part], recipe_of(work.recipe, batch[0])
    commits, frozen, source = {}, list[Edit](), shared.source
    for stop in found.stops:
        commits[stop.edit["edit_key"]] = early.commit_stop(work, record, stop, shared.calibration, together)
    for edit, latents in zip(found.edits, found.latents, strict=True):
        frames = whole_edit.decoded(work, record, latents) if several else work.model.decode(latents)
        if stands_still(frames) and not stands_still(source_frames(work, record, record["frames"])):
            frozen.append(edit)
            continue
        done = finished(work, record, edit, frames, shared)
        # judged first: so each committed edit has the scores of these frames, also after a kill
        judge_edit(work.ledger, work.judge, record | edit, source, done.frames, found.early.get(edit["edit_key"]))
        commits[edit["edit_key"]] = commit_edit(work, record, edit, done, together)
    if frozen:
        problem = f"its edit {frozen[0]['target_prompt'][:100]!r} stands still although the clip moves"
        remedy = "set model.dtype and vae_dtype to float32, check the model's files and LoRA, or change the recipe"
        raise FrozenEdit(record["clip"], problem, remedy)
    spent = 0 if known else masks.evaluations(work, record)
    if found.spent is not None:
        progress.clear(work, together, len(parsed(record["whole"]).scenes))
        return commits, spent + found.spent
    spent += early.evaluations_of(recipe, work.inversion.steps, work.model.layers, len(part), found.stops)
    return commits, spent


def finished(work: Work, record: Record, edit: Edit, frames: np.ndarray, shared: Shared) -> Made:
    """An edit as it is written."""
    if recipe_of(work.recipe, edit).colour_transfer:
        frames = colour_transferred(shared.source(), frames)
    mask, scores = masks.mask_of(record, edit["target_prompt"], shared), dict[str, float]()
    border = "" if mask is None else outline(masks.alpha_of(work, mask) > 0)
    if mask is not None and (work.mask.paste or work.output.scores):
        own, alpha = source_frames(work, record, record["frames"]), masks.alpha_of(work, mask)
        frames = pasted(own, frames, alpha) if work.mask.paste else frames
        cell_px = work.model.pixels_a_cell
        if work.output.scores:
            scores = region_scores(own, shared.source(), frames, alpha, cell_px)
            scores |= masked_scores(work.judge, record | edit, own, frames, Mask(alpha, cell_px))
    scores |= preserved_scores(shared.source(), frames) if work.output.scores else {}
    return Made(frames, scores | gate.scores(record.get("reconstruction", {})), border)


def denoised(work: Work, record: Record, batch: Sequence[Edit], shared: Shared) -> early.Denoised:
    """`denoise_batch` over the clip's trajectory; a damaged one is set aside and made again, once."""
    if whole_edit.several(record):
        return whole_edit.denoised(work, record, batch, shared)
    try:
        return denoise_batch(work, record, batch, trajectory_of(work, record, shared), shared)
    except CorruptObject:
        set_aside(work, record["trajectory_key"])
        shared.trajectories.clear()
        return denoise_batch(work, record, batch, trajectory_of(work, record, shared), shared)
