"""What is done to one clip: encode, invert, edit. Each step first looks whether its unit is committed.

A step takes a JSON record and returns it with more fields; tensors stay in the store.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideo_core import editing, sources, video
from cogvideo_core.dataset_rows import shown_clip
from cogvideo_core.errors import CorruptObject
from cogvideo_core.inversion import evaluations, invert
from cogvideo_core.ledger import Commit, Ledger, Stage
from cogvideo_core.model import VideoModel
from cogvideo_core.prompts import embeddings
from cogvideo_core.specs import DatasetSpec, EngineSpec, InversionSpec, OutputSpec, RecipeSpec, fingerprint
from cogvideo_core.stores import Trajectory, open_trajectory, write_trajectory
from cogvideo_core.units import (
    Edit,
    edit_spec,
    frames_spec,
    inversion_prompt,
    pending_batches,
    planned_edits,
    shape_of,
    trajectory_spec,
)

Record = dict[str, Any]
Step = Callable[[str], None]  # called with the stage's name after each denoising or inversion step


@dataclass(frozen=True)
class Work:
    """The settings, the model and the ledger that a run's clips share."""

    dataset: DatasetSpec
    inversion: InversionSpec
    recipe: RecipeSpec
    output: OutputSpec
    engine: EngineSpec
    model: VideoModel
    ledger: Ledger
    on_step: Step = lambda stage: None

    def find(self, stage: Stage, key: str) -> Commit | None:
        return self.ledger.find(stage, key, self.output.verify)


@contextmanager
def timed(record: Record, stage: str) -> Iterator[Record]:
    """Appends a row to record["timings"]: stage, seconds, and what the body puts in (reused, evaluations)."""
    row: Record = {"stage": stage, "reused": False, "evaluations": 0}
    started = time.perf_counter()
    yield row
    row["seconds"] = round(time.perf_counter() - started, 4)
    record.setdefault("timings", []).append(row)


def encode_clip(work: Work, clip: Record) -> Record:
    """Latents and the source as the model sees it. Adds latents_key and the fields of the unit's record."""
    record = dict(clip)
    settings = frames_spec(work.dataset, work.output, work.model, clip["window"])
    alias = {"source_id": clip["source_id"], "frames": settings}
    with timed(record, "encode") as row:
        known = work.find("clips", fingerprint(alias))
        latents = work.find("latents", known.record["latents_key"]) if known else None
        row["reused"] = latents is not None
        if latents is None:
            latents = _encode_new(work, clip, alias, settings)
    return record | {"latents_key": latents.key, **latents.record}


def _encode_new(work: Work, clip: Record, alias: Record, settings: Record) -> Commit:
    """Opens the file; the same content under another path finds its latents here."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = sources.fetch(clip, folder, work.dataset.max_megabytes * 10**6)  # type: ignore[arg-type]
        spec = settings | {"content": sources.content_sha256(path)}
        latents = work.find("latents", fingerprint(spec)) or _encode_file(work, clip, path, folder, spec)
    work.ledger.commit("clips", fingerprint(alias), {}, alias, {"latents_key": latents.key})
    return latents


def _encode_file(work: Work, clip: Record, path: Path, folder: Path, spec: Record) -> Commit:
    limits, name, shape = video.Limits.of(work.dataset), clip["clip"], shape_of(work.dataset, work.model)
    found = video.probe(path, name, limits)
    window = video.windows(found, name, shape.frames, shape.fps, work.dataset.window)[clip["window"]]
    frames = video.decode(path, name, found, window, shape.height, shape.width, shape.fps, work.dataset.fit, limits)
    audio = (path, found, window) if found.has_audio and work.output.audio == "copy" else None
    video.encode(frames, folder / "source.mp4", shape.fps, work.output.crf, audio)
    latents = work.model.encode(frames)
    save_file({"latents": latents.contiguous()}, folder / "latents.safetensors")
    files = {"latents.safetensors": folder / "latents.safetensors", "source.mp4": folder / "source.mp4"}
    record = {
        "frames": shape.frames,
        "height": shape.height,
        "width": shape.width,
        "fps": shape.fps,
        "has_audio": audio is not None,
        "probe": found.as_json(),
    }
    return work.ledger.commit("latents", fingerprint(spec), files, spec, record)


def read_latents(work: Work, latents_key: str) -> Tensor:
    """float32 [f,C,h,w] of a committed unit."""
    commit = work.ledger.find("latents", latents_key, "full")
    if commit is None:
        raise CorruptObject(f"latents {latents_key[:12]} are missing or damaged and were set aside; run again")
    with tempfile.TemporaryDirectory() as folder:
        return load_file(work.ledger.fetch(commit, "latents.safetensors", Path(folder)))["latents"]


def plan_edits(work: Work, record: Record) -> list[Edit]:
    """The clip's edits in planned order, keys included."""
    prompt = inversion_prompt(work.inversion, record["source_prompt"])
    key = fingerprint(trajectory_spec(record["latents_key"], work.inversion, work.model, prompt))
    return planned_edits(key, work.recipe, work.output, record["source_prompt"], record["target_prompts"])


def invert_clip(work: Work, record: Record, only_if_needed: bool = True) -> Record:
    """Adds trajectory_key. Nothing is computed where the trajectory is committed, nor where it is not to be kept
    and every edit is done or will invert for itself."""
    prompt = inversion_prompt(work.inversion, record["source_prompt"])
    spec = trajectory_spec(record["latents_key"], work.inversion, work.model, prompt)
    record = record | {"trajectory_key": fingerprint(spec), "inversion_prompt": prompt}
    with timed(record, "invert") as row:
        row["reused"] = work.find("trajectories", record["trajectory_key"]) is not None
        if row["reused"] or (only_if_needed and not _needs_trajectory(work, record)):
            return record
        write_inversion(work, record, spec)
        row["evaluations"] = evaluations(work.inversion.method, work.inversion.steps, work.inversion.iterations)
    return record


def _needs_trajectory(work: Work, record: Record) -> bool:
    if work.output.keep_trajectories == "all":
        return True
    return any(work.find("edits", edit["edit_key"]) is None for edit in plan_edits(work, record))


def write_inversion(work: Work, record: Record, spec: Record) -> Commit:
    """Inverts and commits one trajectory; its states are streamed to the shard as they are found."""
    schedule = work.model.schedule(work.inversion.steps, work.inversion.spacing)
    text = embeddings(work.model, work.ledger, [record["inversion_prompt"]])
    states = invert(
        work.model.one_row(text),
        read_latents(work, record["latents_key"]).to(work.model.device),
        schedule,
        work.inversion.method,
        work.inversion.iterations,
    )
    with tempfile.TemporaryDirectory() as folder:
        files, table = write_trajectory(
            Path(folder),
            _stepping(states, work, "invert"),
            schedule.timesteps,
            work.inversion.dtype,
            work.inversion.container,
        )
        return work.ledger.commit("trajectories", record["trajectory_key"], files, spec, table)


def _stepping(states: Iterator[Tensor], work: Work, stage: str) -> Iterator[Tensor]:
    for state in states:
        work.on_step(stage)
        yield state


def edit_clip(work: Work, record: Record) -> Record:
    """Adds `edits`: one row for each planned edit, all committed. An interrupted batch is redone whole."""
    record = dict(record)
    edits = plan_edits(work, record)
    with timed(record, "edit") as timing:
        commits = {edit["edit_key"]: work.find("edits", edit["edit_key"]) for edit in edits}
        batch_of = {key: commit.record.get("batch", []) for key, commit in commits.items() if commit}
        timing |= {"reused": True, "edits": len(batch_of)}
    for batch in pending_batches(edits, batch_of, work.engine.edits_per_batch):
        with timed(record, "edit") as timing:
            edit_batch(work, record, batch)
            timing["evaluations"] = editing.edit_evaluations(work.recipe, work.inversion.steps, len(batch))
            timing["edits"] = len(batch)
    if work.output.keep_trajectories != "all":
        drop_trajectory(work, record["trajectory_key"])
    rows = [edit_row(work, record, edit) | {"reused": edit["edit_key"] in batch_of} for edit in edits]
    return record | {"edits": rows}


def edit_batch(work: Work, record: Record, batch: Sequence[Edit]) -> None:
    """Computes one planned batch; a trajectory found damaged is set aside and made anew, once."""
    try:
        finals = denoise_batch(work, record, batch)
    except CorruptObject:
        work.ledger.find("trajectories", record["trajectory_key"], "full")
        finals = denoise_batch(work, record, batch)
    together = [edit["edit_key"] for edit in batch]
    for edit, latents in zip(batch, finals, strict=True):
        commit_edit(work, record, edit, work.model.decode(latents), together)


def trajectory_of(work: Work, record: Record) -> Trajectory:
    """The clip's trajectory, made first where it is missing."""
    commit = work.find("trajectories", record["trajectory_key"])
    if commit is None:
        invert_clip(work, record, only_if_needed=False)
        commit = work.find("trajectories", record["trajectory_key"])
    if commit is None:
        raise CorruptObject(f"trajectory {record['trajectory_key'][:12]} vanished while it was used; run again")
    return open_trajectory(work.ledger, commit)


def denoise_batch(work: Work, record: Record, batch: Sequence[Edit]) -> Tensor:
    """Clean latents [E,f,C,h,w] of a batch of edits of one clip."""
    model, recipe = work.model, work.recipe
    schedule = model.schedule(work.inversion.steps, work.inversion.spacing)
    reference = record["source_prompt"] if recipe.reference_prompt == "source" else record["inversion_prompt"]
    prompts = [edit["target_prompt"] for edit in batch] + [recipe.negative_prompt, reference]
    text = embeddings(model, work.ledger, prompts)
    texts = editing.Texts(text[:-2], text[-2:-1], text[-1:])
    trajectory = trajectory_of(work, record)
    starts = [editing.start_latents(recipe, schedule, trajectory.read, edit["seed"]) for edit in batch]
    start = torch.stack(starts).to(model.device)
    states = editing.edit(model.velocity, start, texts, trajectory.read, schedule, recipe, model.layers)
    return deque(_stepping(states, work, "edit"), maxlen=1).pop()


def commit_edit(work: Work, record: Record, edit: Edit, frames: Any, batch: list[str]) -> Commit:
    """Writes and commits the edited clip; audio is that of the source as the model saw it."""
    spec = edit_spec(
        record["trajectory_key"],
        work.recipe,
        work.output,
        record["source_prompt"],
        edit["target_prompt"],
        edit["seed"],
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        audio = _source_audio(work, record, folder) if record["has_audio"] else None
        video.encode(frames, folder / "edit.mp4", record["fps"], work.output.crf, audio)
        # the row, so that the tables can be made again from what is committed alone
        row = edit_row(work, record, edit) | {"clip": shown_clip(record["clip"])}
        about = {"batch": batch, "row": row}
        return work.ledger.commit("edits", edit["edit_key"], {"edit.mp4": folder / "edit.mp4"}, spec, about)


def _source_audio(work: Work, record: Record, folder: Path) -> tuple[Path, video.Probe, video.Window] | None:
    latents = work.find("latents", record["latents_key"])
    if latents is None:
        return None
    source = work.ledger.fetch(latents, "source.mp4", folder)
    found = video.probe(source, record["clip"], video.Limits.of(work.dataset))
    return (source, found, video.Window(0, 0.0, record["frames"])) if found.has_audio else None


def drop_trajectory(work: Work, key: str) -> None:
    """A trajectory is a cache: it goes once its edits are committed, unless all are kept."""
    commit = work.ledger.find("trajectories", key, "none")
    if commit is not None:
        work.ledger.remove(commit)


def edit_row(work: Work, record: Record, edit: Edit) -> Record:
    """The edit's line in the tables."""
    copied = ("source_id", "clip", "name", "window", "source_prompt", "inversion_prompt", "latents_key")
    return {
        **{name: record[name] for name in (*copied, "trajectory_key", "frames", "height", "width", "fps")},
        **edit,
        "negative_prompt": work.recipe.negative_prompt,
        "recipe": work.recipe.name,
        "recipe_fingerprint": work.recipe.fingerprint,
        "model": work.model.spec.path,
        "model_fingerprint": work.model.fingerprint,
        "state": "done",
        "scores": {},
    }
