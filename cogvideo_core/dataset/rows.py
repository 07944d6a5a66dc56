"""Rows of the edited dataset as data: their columns, their order and their files' names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from cogvideo_core.dataset.columns import Columns
from cogvideo_core.dataset.own_columns import OwnColumns
from cogvideo_core.stages.failures import ERROR_FIELDS
from cogvideo_core.stages.screen import SCREEN_FIELDS
from cogvideo_core.storage.uris import plain_name, printable, shown_clip, unsigned

Row = dict[str, Any]

ROW_FIELDS: dict[str, pa.DataType] = {
    # `datasets` turns file_name into the column video, and takes it for source_file_name too unless it comes first
    "file_name": pa.string(),
    "source_file_name": pa.string(),
    "clip": pa.string(),
    "window": pa.int32(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "source_prompt": pa.string(),
    "inversion_prompt": pa.string(),
    "target_prompt": pa.string(),
    "first_frame_uri": pa.string(),
    "mask": pa.string(),
    "negative_prompt": pa.string(),
    "recipe": pa.string(),
    "seed": pa.int64(),
    "strength": pa.float64(),
    "frames": pa.int32(),
    "height": pa.int32(),
    "width": pa.int32(),
    "fps": pa.int32(),
    "damaged_frames": pa.int32(),
    "windows": pa.int32(),
    "scenes": pa.int32(),
    "trimmed_frames": pa.int32(),
    **SCREEN_FIELDS,
    "verdict": pa.string(),
    "confidence": pa.float64(),
    "rejected_because": pa.string(),
    "reviewed": pa.string(),
    "rank": pa.int32(),
    "rank_score": pa.float64(),
    "candidates": pa.int32(),
    "model": pa.string(),
    "source_id": pa.string(),
    "source_key": pa.string(),
    "latents_key": pa.string(),
    "trajectory_key": pa.string(),
    "edit_key": pa.string(),
    "recipe_fingerprint": pa.string(),
    "model_fingerprint": pa.string(),
}
TABLE_FIELDS = ROW_FIELDS | {k: pa.string() for k in ("name", "state", "edit_object", "source_object")}
TABLE_FIELDS |= {"mask_outline": pa.string()}  # for the gallery
TABLE_FIELDS |= {"own": pa.string(), "kept": pa.bool_(), "saved_evaluations": pa.int64()}
TABLE_FIELDS |= {"edit_bytes": pa.int64(), "source_bytes": pa.int64()}  # of the objects, by which they are known again
TIMING_FIELDS: dict[str, pa.DataType] = {
    "clip": pa.string(),
    "source_id": pa.string(),
    "window": pa.int32(),
    "stage": pa.string(),
    "seconds": pa.float64(),
    "reused": pa.bool_(),
    "evaluations": pa.int64(),
    "edits": pa.int32(),
    "worker": pa.string(),
}
FILES = ("file_name", "source_file_name")
MAX_MESSAGE = 2_000
OWN = "own columns"  # of a collected row: the names of the columns that are the user's own
# `datasets` makes separate splits of files with these words between separators, and then loses the metadata file
SPLIT_WORDS = re.compile(
    r"(?<![a-z])(training|train|validation|valid|val|dev|testing|test|evaluation|eval)(?![a-z])", re.IGNORECASE
)


class Shape:
    """What is known of the columns once every row was seen: names and types of the scores and of the user's own."""

    def __init__(self) -> None:
        self.scores, self.own = Columns(), OwnColumns({*TABLE_FIELDS, "scores", OWN})

    def add(self, row: Row) -> None:
        """Sees a row of `edit_row`."""
        for name, value in row["scores"].items():
            self.scores.add(name, _number(value))
        if row["own"]:
            self.own.add(row["own"])

    def fields(self) -> dict[str, pa.DataType]:
        """The columns of tables/edits.parquet that not every root has, in alphabetical order."""
        scores = {f"score_{name}": kind for name, kind in self.scores.types().items()}
        return dict(sorted((self.own.types() | scores).items()))

    def flat(self) -> Callable[[Row], Row]:
        """What makes the table's row of a row of `edit_row`: its own columns and score_<name>, None where a score is
        missing or not finite."""
        names, own_of = sorted(self.scores.seen), self.own.columns()

        def flat(row: Row) -> Row:
            own = own_of(row["own"])
            plain = {name: value for name, value in row.items() if name != "scores"} | {OWN: list(own)} | own
            return plain | {f"score_{name}": _number(row["scores"].get(name)) for name in names}

        return flat


def edit_rows(edits: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The collected rows with file names: sorted by clip, window, target prompt, recipe and seed, without duplicates,
    scores flattened to score_<name> (None where a score is missing or not finite).
    """
    rows, shape = sorted(map(edit_row, edits), key=order_of), Shape()
    unique = list({order_of(row): row for row in rows}.values())
    for row in unique:
        shape.add(row)
    return list(map(shape.flat(), unique))


def failure_row(failure: Mapping[str, Any]) -> Row:
    """A failure with all columns of `tables/errors.parquet`."""
    known = {"attempts": 1, "retryable": False, "window": 0, "parked": False} | {
        k: v for k, v in failure.items() if k in ERROR_FIELDS
    }
    row = {name: _clean(known.get(name, "")) for name in ERROR_FIELDS}
    return row | {"clip": shown_clip(row["clip"]), "message": _message(str(row["message"]))}


def _message(text: str) -> str:
    return unsigned(text)[:MAX_MESSAGE]


def metadata_bytes(rows: Iterable[Row]) -> bytes:
    """metadata.jsonl, one JSON object a line."""
    lines = (json.dumps(metadata_of(row), ensure_ascii=False, allow_nan=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def metadata_of(row: Row) -> Row:
    """What the dataset says of an edit: columns in the table's order, the user's own, scores."""
    scores = {name: value for name, value in row.items() if name.startswith("score_")}
    own = {name: row[name] for name in row.get(OWN, ())}
    return {name: row[name] for name in ROW_FIELDS} | own | scores


def folder_of(row: Row) -> str:
    """Where the row's files lie in a large dataset: an edit beside its source."""
    return f"videos/{row['source_key'][:2]}"


def in_folder(row: Row, folder: str) -> Row:
    """The row with its two files in this folder of dataset/."""
    return row | {name: f"{folder}/{row[name].rpartition('/')[2]}" for name in FILES}


def order_of(row: Row) -> tuple[Any, ...]:
    """What the tables are sorted by."""
    first = (*source_of(row), row["target_prompt"], row["recipe"], row["seed"], row["strength"])
    return (*first, row["edit_key"], row["source_id"])


def source_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What was edited: clip, part and window."""
    return row["clip"], row["start_s"], row["end_s"], row["window"]


def edit_row(edit: Mapping[str, Any]) -> Row:
    """A committed edit with all columns but those that not every root has; scores are a dict still."""
    row = {name: _clean(value) for name, value in edit.items() if name in TABLE_FIELDS or name == "scores"}
    name = SPLIT_WORDS.sub(lambda word: f"x{word.group()}", plain_name(row["name"]))
    # rows of earlier runs may lack these
    added = {"first_frame_uri": "", "mask": "", "mask_outline": "", "strength": 1.0, "damaged_frames": 0}
    added |= dict.fromkeys(SCREEN_FIELDS)
    added |= {"start_s": 0.0, "end_s": 0.0, "windows": 1, "scenes": 1, "trimmed_frames": 0}
    added |= {"verdict": "unjudged", "confidence": None, "rejected_because": "", "kept": True}
    added |= {"own": "", "reviewed": "", "rank": 1, "rank_score": None, "candidates": 1, "saved_evaluations": 0}
    added |= {"edit_bytes": None, "source_bytes": None}
    return (
        added
        | row
        | {
            "scores": dict(edit.get("scores") or {}),
            "clip": shown_clip(row["clip"]),
            "file_name": f"videos/{name}-{edit['edit_key'][:12]}.mp4",
            "source_file_name": f"videos/{name}-{edit['source_key'][:12]}-source.mp4",
        }
    )


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _clean(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
