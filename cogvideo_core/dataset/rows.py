"""Rows of the edited dataset as data: their columns, their order and their files' names."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.dataset.own_columns import expanded
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
TABLE_FIELDS |= {"own": pa.string(), "kept": pa.bool_(), "saved_evaluations": pa.int64()}
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
MAX_MESSAGE = 2_000
OWN = "own columns"  # of a collected row: the names of the columns that are the user's own
# `datasets` makes separate splits of files with these words between separators, and then loses the metadata file
SPLIT_WORDS = re.compile(
    r"(?<![a-z])(training|train|validation|valid|val|dev|testing|test|evaluation|eval)(?![a-z])", re.IGNORECASE
)


def edit_rows(edits: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The collected rows with file names: sorted by clip, window, target prompt, recipe and seed, without duplicates,
    scores flattened to score_<name> (None where a score is missing or not finite).
    """
    rows = sorted((_row(edit) for edit in edits), key=_order)
    names = sorted({name for row in rows for name in row["scores"]})
    unique = list({_order(row): row for row in rows}.values())
    owns = expanded([row["own"] for row in unique], {*TABLE_FIELDS, "scores"})
    return [_flat(row, names) | {OWN: list(own)} | own for row, own in zip(unique, owns, strict=True)]


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Collected rows in the tables' order."""
    return sorted(rows, key=_order)


def failure_rows(failures: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Failures with all columns of `tables/errors.parquet`, sorted by clip, stage and message."""
    rows = []
    for failure in failures:
        known = {"attempts": 1, "retryable": False, "window": 0, "parked": False} | {
            k: v for k, v in failure.items() if k in ERROR_FIELDS
        }
        row = {name: _clean(known.get(name, "")) for name in ERROR_FIELDS}
        rows.append(row | {"clip": shown_clip(row["clip"]), "message": _message(str(row["message"]))})
    return sorted(rows, key=lambda row: (row["clip"], row["stage"], row["message"]))


def _message(text: str) -> str:
    return unsigned(text)[:MAX_MESSAGE]


def parquet_bytes(rows: Sequence[Row], fields: Mapping[str, pa.DataType]) -> bytes:
    """A Parquet file of these columns, then any others that rows have, in alphabetical order."""
    others = sorted({name for row in rows for name in row} - {*fields, OWN})
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in fields.items()}
    columns |= {name: _inferred([row.get(name) for row in rows], name) for name in others}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def metadata_bytes(rows: Sequence[Row]) -> bytes:
    """metadata.jsonl, one JSON object a line: columns in the table's order, the user's own, scores."""
    lines = []
    for row in rows:
        scores = {name: value for name, value in row.items() if name.startswith("score_")}
        own = {name: row[name] for name in row.get(OWN, ())}
        line = {name: row[name] for name in ROW_FIELDS} | own | scores
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False))
    return "".join(line + "\n" for line in lines).encode()


def _order(row: Row) -> tuple[Any, ...]:
    first = (*source_of(row), row["target_prompt"], row["recipe"], row["seed"], row["strength"])
    return (*first, row["edit_key"], row["source_id"])


def source_of(row: Row) -> tuple[Any, ...]:
    """What was edited: clip, part and window."""
    return row["clip"], row["start_s"], row["end_s"], row["window"]


def _row(edit: Mapping[str, Any]) -> Row:
    row = {name: _clean(value) for name, value in edit.items() if name in TABLE_FIELDS or name == "scores"}
    name = SPLIT_WORDS.sub(lambda word: f"x{word.group()}", plain_name(row["name"]))
    # rows of earlier runs may lack these
    added = {"first_frame_uri": "", "mask": "", "strength": 1.0, "damaged_frames": 0} | dict.fromkeys(SCREEN_FIELDS)
    added |= {"start_s": 0.0, "end_s": 0.0}
    added |= {"verdict": "unjudged", "confidence": None, "rejected_because": "", "kept": True}
    added |= {"own": "", "reviewed": "", "rank": 1, "rank_score": None, "candidates": 1, "saved_evaluations": 0}
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


def _flat(row: Row, names: Sequence[str]) -> Row:
    flat = {name: value for name, value in row.items() if name != "scores"}
    return flat | {f"score_{name}": _number(row["scores"].get(name)) for name in names}


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _clean(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _inferred(values: list[Any], name: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # mixed types: as text
        return pa.array([None if value is None else printable(str(value)) for value in values], pa.string())
