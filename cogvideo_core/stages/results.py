"""What an edit leaves behind: its video, its committed unit, and its row in the tables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cogvideo_core.inputs.masks import AUTO
from cogvideo_core.media import video
from cogvideo_core.models.lora import shown
from cogvideo_core.stages.screen import SCREEN_FIELDS
from cogvideo_core.stages.units import Edit, brought_by, edit_spec, part_of
from cogvideo_core.stages.whole import in_row
from cogvideo_core.stages.wishes import recipe_of
from cogvideo_core.stages.work import Record, Work
from cogvideo_core.storage.ledger import Commit
from cogvideo_core.storage.uris import shown_clip

Scores = dict[str, float]


class Made(NamedTuple):
    """An edit as it is written: frames uint8 [F,H,W,3], scores, and the outline of its mask, "" without one."""

    frames: np.ndarray
    scores: Scores
    outline: str


def commit_edit(work: Work, record: Record, edit: Edit, made: Made, batch: list[str]) -> Commit:
    """Writes and commits the edited clip; audio is that of the source as the model saw it."""
    spec = edit_spec(
        record["trajectory_key"],
        recipe_of(work.recipe, edit),
        work.output,
        record["source_prompt"],
        edit,
        brought_by(record, work.mask),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        audio = _source_audio(work, record, folder) if record["has_audio"] else None
        video.encode(made.frames, folder / "edit.mp4", record["fps"], work.output.crf, audio)
        # the row, so that the tables can be made again from what is committed alone
        row = edit_row(work, record, edit, made.scores) | {"clip": shown_clip(record["clip"])}
        row |= {"mask_outline": made.outline} if made.outline else {}
        about = {"batch": batch, "row": row}
        return work.ledger.commit("edits", edit["edit_key"], {"edit.mp4": folder / "edit.mp4"}, spec, about)


def _source_audio(work: Work, record: Record, folder: Path) -> tuple[Path, video.Probe, video.Window] | None:
    commit = work.find("sources", record["source_key"])
    if commit is None:
        return None
    source = work.ledger.fetch(commit, "source.mp4", folder)
    found = video.probe(source, record["clip"], video.Limits.of(work.dataset))
    return (source, found, video.Window(0, 0.0, record["frames"])) if found.has_audio else None


def edit_row(work: Work, record: Record, edit: Edit, scores: Scores) -> Record:
    """The edit's line in the tables."""
    recipe, part = recipe_of(work.recipe, edit), part_of(record)
    copied = ("source_id", "clip", "name", "window", "source_prompt", "inversion_prompt", "latents_key", "source_key")
    return {
        **{name: record[name] for name in (*copied, "trajectory_key", "frames", "height", "width", "fps")},
        **{name: value for name, value in edit.items() if name != "own_recipe"},
        **part._asdict(),
        "damaged_frames": record.get("damaged_frames", 0),  # sources of earlier versions were not counted
        **in_row(record),
        **{name: record.get(name) for name in SCREEN_FIELDS},
        "first_frame_uri": shown_clip(record["first_frame_uri"]),
        "mask": shown_clip(mask_of(record)),
        "recipe_fingerprint": recipe.fingerprint,
        "model": shown(work.model.spec),
        "model_fingerprint": work.model.fingerprint,
        "state": "done",
        "scores": scores,
    }


def mask_of(record: Record) -> str:
    """The mask of a row's edits, as its manifest has it; "" where they have none."""
    key = record.get("mask_key", "")
    return AUTO if key == AUTO else str(record.get("mask", "")) if key else ""


def committed_scores(commit: Commit | None) -> Scores:
    """What was measured when the edit was made."""
    return dict(commit.record.get("row", {}).get("scores", {})) if commit else {}


def committed_outline(commit: Commit | None) -> dict[str, Any]:
    """The column of the mask's outline, where the edit has one."""
    row = commit.record.get("row", {}) if commit else {}
    return {"mask_outline": row["mask_outline"]} if row.get("mask_outline") else {}
