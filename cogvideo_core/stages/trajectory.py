"""The trajectory of one clip: whether its edits need one, made or found, and dropped when they are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.inputs.masks import AUTO
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.stages import gate
from cogvideo_core.stages.early import committed
from cogvideo_core.stages.invert import inverted, judged_anew, write_inversion
from cogvideo_core.stages.judge import calibration_of
from cogvideo_core.stages.units import (
    Edit,
    Readers,
    brought_by,
    inversion_prompt,
    levels_kept,
    levels_wanted,
    planned_edits,
    trajectory_spec,
)
from cogvideo_core.stages.whole import joined, parsed, windows_of
from cogvideo_core.stages.wishes import Prompt, prompts_of
from cogvideo_core.stages.work import Record, Shared, Work, timed
from cogvideo_core.storage.ledger import Commit
from cogvideo_core.storage.trajectories import open_trajectory
from cogvideo_core.storage.virtual import noised_state


def plan_edits(work: Work, record: Record, prompts: Sequence[Prompt] | None = None, rung: int = 0) -> list[Edit]:
    """The clip's edits in planned order, keys included: of all its prompts, or of these, on a rung of the ladder."""
    about = joint(work, record)
    key = fingerprint(about or _trajectory_spec(work, record))
    record = record | {"joint": about}
    wanted = prompts_of(record) if prompts is None else prompts
    wishes = (record["source_prompt"], wanted, brought_by(record, work.mask))
    return planned_edits(key, work.recipe, work.output, *wishes, rung)


def joint(work: Work, record: Record) -> Record:
    """What edits of several windows are determined by, besides their recipe: how the clip is cut up, and the windows'
    trajectories. {} for a clip of one window. record: the clip's or one of its windows'."""
    keys = record.get("window_keys")
    if not keys:
        return {}
    whole = parsed(record["whole"])
    made = iter([fingerprint(_trajectory_spec(work, record | own)) for own in keys])
    scenes = [
        {**scene._asdict(), "places": layout.places, "trajectories": [next(made) for _ in layout.places]}
        for scene, layout in zip(whole.scenes, whole.layouts, strict=True)
    ]
    return {"scenes": scenes}


def _trajectory_spec(work: Work, record: Record) -> Record:
    prompt, levels = inversion_prompt(work.inversion, record["source_prompt"]), _levels(work, record)
    return trajectory_spec(record["latents_key"], work.inversion, work.model, prompt, levels)


def _levels(work: Work, record: Record) -> list[int] | None:
    return levels_kept(work.inversion, work.recipe, work.model.layers, _read_by(work, record))


def _read_by(work: Work, record: Record) -> Readers:
    """What decides, besides the recipe, which levels a record's edits read."""
    key = record.get("mask_key", "")
    return Readers(record.get("overrides"), work.mask if key else None, key == AUTO)


def invert_clip(work: Work, record: Record, only_if_needed: bool = True) -> Record:
    """Adds trajectory_key, and reconstruction where it is known. Nothing is computed if the trajectory is committed, or
    if it is not to be kept and every edit is done or will invert for itself.

    A clip of several windows gets them, each inverted. Raises PoorReconstruction for a clip that the gate rejects or
    rejected before.
    """
    if record.get("window_keys") and "of" not in record:
        return next(joined([invert_clip(work, window, only_if_needed) for window in windows_of(record)]))
    spec, prompt = _trajectory_spec(work, record), inversion_prompt(work.inversion, record["source_prompt"])
    record = record | {"trajectory_key": fingerprint(spec), "inversion_prompt": prompt}
    with timed(record, "invert") as row:
        commit = work.find("trajectories", record["trajectory_key"])
        if commit is not None and "unjudged" in commit.record.get("reconstruction", {}):
            commit = judged_anew(work, record, commit)
        row["reused"] = commit is not None or (only_if_needed and not _needs_trajectory(work, record))
        if not row["reused"]:
            commit = write_inversion(work, record, spec, _levels(work, record))
            row["evaluations"] = commit.record["reconstruction"]["evaluations"]
    return record | {"reconstruction": accepted(work, record, commit)} if commit else record


def accepted(work: Work, record: Record, commit: Commit) -> Record:
    """The reconstruction report of a committed trajectory. Raises PoorReconstruction where it did not pass."""
    report = dict(commit.record.get("reconstruction", {}))
    gate.check(record["clip"], report, work.inversion)
    return report


def _needs_trajectory(work: Work, record: Record) -> bool:
    keep = work.output.keep_trajectories
    if keep == "all" or (keep == "none" and not record.get("window_keys")):
        return keep == "all"
    calibration = calibration_of(work.ledger, work.judge)
    return any(committed(work, edit["edit_key"], calibration) is None for edit in plan_edits(work, record))


def trajectory_of(work: Work, record: Record, shared: Shared) -> editing.Trajectory:
    """Level -> state of the clip's trajectory, made first where it is missing; `shared` keeps it for the next batch."""
    key, held = record["trajectory_key"], shared.trajectories
    if key not in held:
        commit = work.find("trajectories", key)
        if commit is None and (work.output.keep_trajectories != "none" or record.get("window_keys")):
            invert_clip(work, record, only_if_needed=False)
            commit = work.find("trajectories", key)
        if commit is not None:
            record["reconstruction"] = accepted(work, record, commit)
        held[key] = _read_from(work, commit) if commit else _in_memory(work, record)
    return held[key]


def set_aside(work: Work, key: str) -> None:
    """Sets aside a trajectory that can't be read, or whose noise, which is drawn and not stored, has changed."""
    commit = work.ledger.find("trajectories", key, "full")
    if commit is not None and commit.record.get("kind") == "noised":
        work.ledger.set_aside(commit, dict.fromkeys(commit.files, "belongs to a noise that is not drawn here"))


def _read_from(work: Work, commit: Commit) -> editing.Trajectory:
    return open_trajectory(work.ledger, commit, verify=work.output.verify != "none").read


def _in_memory(work: Work, record: Record) -> editing.Trajectory:
    """An inversion that is stored nowhere, rounded as if it were: the edits are the same. It ends where they begin."""
    schedule, settings = work.model.schedule(work.inversion.steps, work.inversion.spacing), work.inversion
    levels = [0]
    if settings.method != "none":
        levels = levels_wanted(settings, work.recipe, work.model.layers, _read_by(work, record))
    dtype = getattr(torch, settings.dtype)

    def keep(states: Iterator[Tensor]) -> dict[int, Tensor]:
        return {level: state.to("cpu", dtype) for level, state in enumerate(states) if level in levels}

    with timed(record, "invert") as row:
        kept, report = inverted(work, record, keep, levels)
        row["evaluations"] = report["evaluations"]
    gate.check(record["clip"], report, settings)
    record["reconstruction"] = report
    if settings.method == "none":
        return lambda level: noised_state(kept[0].float(), schedule.thetas[level])
    return lambda level: kept[level].float()


def drop_trajectory(work: Work, key: str) -> None:
    """A trajectory is a cache: it goes once its edits are committed, unless all are kept."""
    commit = work.ledger.find("trajectories", key, "none")
    if commit is not None:
        work.ledger.remove(commit)
