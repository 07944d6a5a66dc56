"""What is done to one clip after it is encoded: invert, edit. Each stage first checks if its unit is committed.

A stage takes a JSON record and returns it with more fields; tensors stay in the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.errors import CorruptObject, FrozenEdit
from cogvideo_core.media.quality import colour_transferred, preserved_scores
from cogvideo_core.models import batching, memory
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.stages import gate
from cogvideo_core.stages.encode import read_latents
from cogvideo_core.stages.invert import inverted, judged_anew, source_frames, stepping, write_inversion
from cogvideo_core.stages.judge import judge_edit, judge_stored
from cogvideo_core.stages.prompts import embeddings
from cogvideo_core.stages.results import commit_edit, committed_scores, edit_row
from cogvideo_core.stages.units import (
    Edit,
    inversion_prompt,
    levels_kept,
    pending_batches,
    planned_edits,
    trajectory_spec,
)
from cogvideo_core.stages.work import Record, Work, timed
from cogvideo_core.storage.ledger import Commit
from cogvideo_core.storage.trajectories import Ahead, open_trajectory
from cogvideo_core.storage.uris import shown_clip
from cogvideo_core.storage.virtual import noised_state


def plan_edits(work: Work, record: Record) -> list[Edit]:
    """The clip's edits in planned order, keys included."""
    key = fingerprint(_trajectory_spec(work, record))
    wishes = (record["source_prompt"], record["target_prompts"], record["first_frame"])
    return planned_edits(key, work.recipe, work.output, *wishes)


def _trajectory_spec(work: Work, record: Record) -> Record:
    prompt, levels = inversion_prompt(work.inversion, record["source_prompt"]), _levels(work)
    return trajectory_spec(record["latents_key"], work.inversion, work.model, prompt, levels)


def _levels(work: Work) -> list[int] | None:
    return levels_kept(work.inversion, work.recipe, work.model.layers)


def invert_clip(work: Work, record: Record, only_if_needed: bool = True) -> Record:
    """Adds trajectory_key, and reconstruction where it is known. Nothing is computed if the trajectory is committed, or
    if it is not to be kept and every edit is done or will invert for itself.

    Raises PoorReconstruction for a clip that the gate rejects or rejected before.
    """
    spec, prompt = _trajectory_spec(work, record), inversion_prompt(work.inversion, record["source_prompt"])
    record = record | {"trajectory_key": fingerprint(spec), "inversion_prompt": prompt}
    with timed(record, "invert") as row:
        commit = work.find("trajectories", record["trajectory_key"])
        if commit is not None and "unjudged" in commit.record.get("reconstruction", {}):
            commit = judged_anew(work, record, commit)
        row["reused"] = commit is not None or (only_if_needed and not _needs_trajectory(work, record))
        if not row["reused"]:
            commit = write_inversion(work, record, spec, _levels(work))
            row["evaluations"] = commit.record["reconstruction"]["evaluations"]
    return record | {"reconstruction": accepted(work, record, commit)} if commit else record


def accepted(work: Work, record: Record, commit: Commit) -> Record:
    """The reconstruction report of a committed trajectory. Raises PoorReconstruction where it did not pass."""
    report = dict(commit.record.get("reconstruction", {}))
    gate.check(record["clip"], report, work.inversion)
    return report


def _needs_trajectory(work: Work, record: Record) -> bool:
    keep = work.output.keep_trajectories
    if keep != "until_edited":
        return keep == "all"
    return any(work.find("edits", edit["edit_key"]) is None for edit in plan_edits(work, record))


def edit_clip(work: Work, record: Record) -> Record:
    """Adds `edits`: one row for each planned edit, all committed. An interrupted batch is redone whole."""
    record = dict(record)
    edits = plan_edits(work, record)
    with timed(record, "edit") as timing:
        commits = {edit["edit_key"]: work.find("edits", edit["edit_key"]) for edit in edits}
        batch_of = {key: commit.record.get("batch", []) for key, commit in commits.items() if commit}
        timing |= {"reused": True, "edits": len(batch_of)}
    held: dict[str, editing.Trajectory] = {}
    source = cache(lambda: work.model.decode(read_latents(work, record["latents_key"])["latents"]))
    todo = deque(pending_batches(edits, batch_of, batch_size(work, record)))
    while todo:
        batch = todo.popleft()
        with timed(record, "edit") as timing:
            done = edit_batch(work, record, batch, held, source)
            steps, layers = work.inversion.steps, work.model.layers
            timing["evaluations"] = editing.edit_evaluations(work.recipe, steps, len(done), layers)
            timing["edits"] = len(done)
        commits |= done
        if len(done) < len(batch):
            todo.appendleft(batch[len(done) :])
    if work.output.keep_trajectories != "all":
        drop_trajectory(work, record["trajectory_key"])
    rows = [
        edit_row(work, record, edit, committed_scores(commits[edit["edit_key"]]))
        | {"reused": edit["edit_key"] in batch_of}
        for edit in edits
    ]
    judge_stored(work.ledger, work.judge, rows)
    return record | {"edits": rows}


def batch_size(work: Work, record: Record) -> int:
    latents = batching.latents_of(work.model, record["frames"], record["height"], record["width"])
    return batching.edits_per_batch(work.model, work.engine, work.recipe, latents)


def edit_batch(
    work: Work,
    record: Record,
    batch: Sequence[Edit],
    held: dict[str, editing.Trajectory],
    source: Callable[[], np.ndarray],
) -> dict[str, Commit]:
    """Computes a planned batch, or as many of its first edits as memory has room for; their commits by key.

    `source` gives the frames that edits are compared with: what the VAE alone makes of the clip. Raises FrozenEdit
    after committing all usable edits.
    """
    part, finals = memory.as_many_as_fit(
        batch, work.model.room, lambda part: denoised(work, record, part, held), f"clip {shown_clip(record['clip'])!r}"
    )
    together = [edit["edit_key"] for edit in part]
    commits, frozen = {}, list[Edit]()
    for edit, latents in zip(part, finals, strict=True):
        frames = work.model.decode(latents)
        if stands_still(frames) and not stands_still(source_frames(work, record, record["frames"])):
            frozen.append(edit)
            continue
        if work.recipe.colour_transfer:
            frames = colour_transferred(source(), frames)
        scores = preserved_scores(source(), frames) if work.output.scores else {}
        scores |= gate.scores(record.get("reconstruction", {}))
        # judged first: so each committed edit has the scores of these frames, also after a kill
        judge_edit(work.ledger, work.judge, record | edit, source, frames)
        commits[edit["edit_key"]] = commit_edit(work, record, edit, frames, scores, together)
    if frozen:
        problem = f"its edit {frozen[0]['target_prompt'][:100]!r} stands still although the clip moves"
        remedy = "set model.dtype and vae_dtype to float32, check the model's files and LoRA, or change the recipe"
        raise FrozenEdit(record["clip"], problem, remedy)
    return commits


def stands_still(frames: np.ndarray) -> bool:
    """Whether all of several frames [F,H,W,3] are equal."""
    return len(frames) > 1 and bool((frames == frames[:1]).all())


def denoised(work: Work, record: Record, batch: Sequence[Edit], held: dict[str, editing.Trajectory]) -> Tensor:
    """`denoise_batch` over the clip's trajectory; a damaged one is set aside and made again, once."""
    try:
        return denoise_batch(work, record, batch, trajectory_of(work, record, held))
    except CorruptObject:
        _set_aside(work, record["trajectory_key"])
        held.clear()
        return denoise_batch(work, record, batch, trajectory_of(work, record, held))


def trajectory_of(work: Work, record: Record, held: dict[str, editing.Trajectory]) -> editing.Trajectory:
    """Level -> state of the clip's trajectory, made first where it is missing; `held` keeps it for the next batch."""
    key = record["trajectory_key"]
    if key not in held:
        commit = work.find("trajectories", key)
        if commit is None and work.output.keep_trajectories != "none":
            invert_clip(work, record, only_if_needed=False)
            commit = work.find("trajectories", key)
        if commit is not None:
            record["reconstruction"] = accepted(work, record, commit)
        held[key] = _read_from(work, commit) if commit else _in_memory(work, record)
    return held[key]


def _set_aside(work: Work, key: str) -> None:
    """Sets aside a trajectory that can't be read, or whose noise, which is drawn and not stored, has changed."""
    commit = work.ledger.find("trajectories", key, "full")
    if commit is not None and commit.record.get("kind") == "noised":
        work.ledger.set_aside(commit, dict.fromkeys(commit.files, "belongs to a noise that is not drawn here"))


def _read_from(work: Work, commit: Commit) -> editing.Trajectory:
    return open_trajectory(work.ledger, commit, verify=work.output.verify != "none").read


def _in_memory(work: Work, record: Record) -> editing.Trajectory:
    """An inversion that is stored nowhere, rounded as if it were: the edits are the same."""
    schedule, settings = work.model.schedule(work.inversion.steps, work.inversion.spacing), work.inversion
    dtype, levels = getattr(torch, settings.dtype), _levels(work)

    def keep(states: Iterator[Tensor]) -> dict[int, Tensor]:
        wanted = levels or range(schedule.steps + 1)
        return {level: state.to("cpu", dtype) for level, state in enumerate(states) if level in wanted}

    with timed(record, "invert") as row:
        kept, report = inverted(work, record, keep)
        row["evaluations"] = report["evaluations"]
    gate.check(record["clip"], report, settings)
    record["reconstruction"] = report
    if settings.method == "none":
        return lambda level: noised_state(kept[0].float(), schedule.thetas[level])
    return lambda level: kept[level].float()


def denoise_batch(work: Work, record: Record, batch: Sequence[Edit], trajectory: editing.Trajectory) -> Tensor:
    """Clean latents [E,f,C,h,w] of a batch of edits of one clip."""
    model, recipe = work.model, work.recipe
    schedule = model.schedule(work.inversion.steps, work.inversion.spacing)
    reference = record["source_prompt"] if recipe.reference_prompt == "source" else record["inversion_prompt"]
    prompts = [edit["target_prompt"] for edit in batch] + [recipe.negative_prompt, reference]
    text = embeddings(model, work.ledger, prompts)
    with Ahead(trajectory, editing.levels_read(recipe, schedule.steps, model.layers)) as state_at:
        starts = [editing.start_latents(recipe, schedule, state_at, edit["seed"]) for edit in batch]
        start = torch.stack(starts).to(model.device)
        strengths = None if recipe.strengths == [1.0] else torch.tensor([edit["strength"] for edit in batch]).to(start)
        texts = editing.Texts(text[:-2], text[-2:-1], text[-1:], strengths)
        states = editing.edit(conditioned(work, record), start, texts, state_at, schedule, recipe, model.layers)
        return deque(stepping(states, work, "edit"), maxlen=1).pop()


def conditioned(work: Work, record: Record) -> editing.RowVelocity:
    """The model's velocity. An image-to-video model's edit rows see the edited first frame, where there is one, and
    its reference rows the source's."""
    if not work.model.image_to_video:
        return work.model.velocity
    image_ref = read_latents(work, record["latents_key"])["image"]
    own = record["first_frame_key"]
    return work.model.conditioned(read_latents(work, own)["image"] if own else image_ref, image_ref)


def drop_trajectory(work: Work, key: str) -> None:
    """A trajectory is a cache: it goes once its edits are committed, unless all are kept."""
    commit = work.ledger.find("trajectories", key, "none")
    if commit is not None:
        work.ledger.remove(commit)
