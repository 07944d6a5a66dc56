"""The inversion of one clip: states, the gate's judgement on them, and their commit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from cogvideo_core.diffusion.ddim import Velocity
from cogvideo_core.diffusion.inversion import evaluations, invert
from cogvideo_core.errors import CorruptObject, OutOfMemory
from cogvideo_core.media import film, video
from cogvideo_core.models.memory import SMALLER, ran_out_of_memory
from cogvideo_core.stages import gate
from cogvideo_core.stages.encode import read_latents
from cogvideo_core.stages.prompts import embeddings
from cogvideo_core.stages.units import INVERTER_FIELDS
from cogvideo_core.stages.whole import first_shown
from cogvideo_core.stages.work import Record, Work
from cogvideo_core.storage.ledger import Commit
from cogvideo_core.storage.trajectories import open_trajectory, write_trajectory
from cogvideo_core.storage.uris import shown_clip
from cogvideo_core.storage.virtual import virtual_record

Kept = TypeVar("Kept")


def inverted(
    work: Work, record: Record, keep: Callable[[Iterator[Tensor]], Kept], levels: list[int] | None
) -> tuple[Kept, Record]:
    """The result of `keep` on the states of a clip's inversion, level by level, and the gate's report on it.

    It ends at the highest of the `levels` that are wanted, None for all. An inversion that does not pass is followed by
    a stronger one, which is final; the report's evaluations count everything that was done.
    """
    schedule, spent = work.model.schedule(work.inversion.steps, work.inversion.spacing), 0
    velocity, latents = _inputs(work, record)
    frames = partial(source_frames, work, record)
    for settings in gate.tries(work.inversion):
        level, seen = gate.gate_evaluations(settings), dict[int, Tensor]()
        highest = gate.highest_level(settings, levels)
        states = islice(gate.watched(invert(velocity, latents, schedule, settings), level, seen), highest + 1)
        try:
            kept = keep(states)
        except Exception as error:
            if isinstance(error, OutOfMemory) or not ran_out_of_memory(error):
                raise
            raise OutOfMemory(f"clip {shown_clip(record['clip'])!r}, being inverted: {SMALLER}") from error
        report = gate.judged(work.model, velocity, schedule, settings, seen, frames)
        spent += evaluations(settings, highest) + level
        if report.get("passed", True):
            break
    used = settings.model_dump(
        include={"method", *({"iterations", "first_iterations"} & INVERTER_FIELDS[settings.method])}
    )
    return kept, report | {"inverter": used, "evaluations": spent}


def _inputs(work: Work, record: Record) -> tuple[Velocity, Tensor]:
    """The clip's velocity, given its inversion prompt, and its clean latents [f,C,h,w] on the model's device."""
    text = embeddings(work.model, work.ledger, [record["inversion_prompt"]])
    stored = read_latents(work, record["latents_key"])
    velocity = heard(work.model.one_row(text, stored.get("image")), work, "invert")
    return velocity, stored["latents"].to(work.model.device)


def judged_anew(work: Work, record: Record, commit: Commit) -> Commit | None:
    """Judges a stored inversion that could not be judged for lack of memory, from its stored states.

    None where it has to be inverted again: it does not pass, or the level that the gate samples from was not kept.
    """
    level, stored = gate.gate_evaluations(work.inversion), open_trajectory(work.ledger, commit)
    if level not in stored.levels:
        work.ledger.remove(commit)
        return None
    schedule = work.model.schedule(work.inversion.steps, work.inversion.spacing)
    velocity, latents = _inputs(work, record)
    seen = {0: latents, level: stored.read(level).to(latents)}
    frames = partial(source_frames, work, record)
    report = gate.judged(work.model, velocity, schedule, work.inversion, seen, frames)
    if "unjudged" in report:
        return commit
    before = commit.record["reconstruction"]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: _copy(work, commit, name, Path(folder)) for name in commit.files}
        work.ledger.remove(commit)
        if not report["passed"]:
            return None
        spent = {"inverter": before["inverter"], "evaluations": before["evaluations"] + level}
        about = commit.record | {"reconstruction": report | spent}
        return work.ledger.commit("trajectories", commit.key, files, commit.spec, about)


def _copy(work: Work, commit: Commit, name: str, folder: Path) -> Path:
    """A copy of a stored file that outlives its unit."""
    target = folder / "kept" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(work.ledger.fetch(commit, name, folder), target))


def write_inversion(work: Work, record: Record, spec: Record, levels: list[int] | None) -> Commit:
    """Inverts and commits one trajectory; its states are streamed to the shard as they are found. `levels` are kept,
    None for all. One that the gate rejects is committed without its states, so that it is not computed again."""
    settings = work.inversion
    schedule, virtual = work.model.schedule(settings.steps, settings.spacing), settings.method == "none"
    with tempfile.TemporaryDirectory() as temporary:

        def keep(states: Iterator[Tensor]) -> tuple[dict[str, Path], Record]:
            folder, stored = Path(tempfile.mkdtemp(dir=temporary)), [0] if virtual else levels
            how = (settings.dtype, settings.container, stored, settings.codec)
            return write_trajectory(folder, states, schedule.timesteps, *how)

        (files, table), report = inverted(work, record, keep, levels)
        if not report.get("passed", True):
            files, table = {}, {}
        table = virtual_record(table, schedule) if virtual else table
        about = table | {"reconstruction": report}
        return work.ledger.commit("trajectories", record["trajectory_key"], files, spec, about)


def source_frames(work: Work, record: Record, count: int) -> np.ndarray:
    """The first frames of the source as the model saw it, or of one of its windows: uint8 [count,H,W,3]."""
    commit = work.find("sources", record["source_key"])
    if commit is None:
        raise CorruptObject(f"source {record['source_key'][:12]} is missing or damaged and was set aside; run again")
    with tempfile.TemporaryDirectory() as folder:
        path, limits = work.ledger.fetch(commit, "source.mp4", Path(folder)), video.Limits.of(work.dataset)
        found, view = (
            video.probe(path, record["clip"], limits),
            video.View(record["height"], record["width"], record["fps"], "stretch"),
        )
        window = video.Window(0, round(first_shown(record) / record["fps"], 6), count)
        return film.decoded(path, record["clip"], found, window, view, limits)


def heard(velocity: Velocity, work: Work, stage: str) -> Velocity:
    """The velocity; `Work.on_step` is called before each evaluation, and may stop everything by raising."""

    def called(x: Tensor, t: int) -> Tensor:
        work.on_step(stage)
        return velocity(x, t)

    return called
