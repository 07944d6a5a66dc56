"""IVEBench: 600 clips with an instruction each.

Read as published (github.com/RyanChenYN/IVEBench, README.md, metrics/ivebench_utils.py): JSON lists of items with id,
src_video_name, category, subcategory, source_prompt, edit_prompt and target_prompt; clips as folders of frames, or as
mp4. Laid out as its evaluator reads it: `target_videos/<name>/00000.png` and `source_videos/<name>/00000.png`, the same
frames of both, in the clip's shape (its data_process/ scales sources down to what a method can edit).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from cogvideo_core.benchmarks.cases import Benchmark, Case, Column, Form
from cogvideo_core.benchmarks.reading import Entry, entries, json_file
from cogvideo_core.errors import BadManifest

FOLDERS = ("frames", "source_videos", "videos", "")  # where clips are looked for, in the folder or beside the list
MORE = ("subcategory", "target_phrase", "target_span")


def read(folder: Path, prompts: str) -> list[Case]:
    """Raises BadManifest."""
    return [
        _case(folder, file.parent, entry) for file, items in _lists(folder).items() for entry in entries(file, items)
    ]


def _lists(folder: Path) -> dict[Path, list[Any]]:
    """The lists of items among the folder's JSON files, and those of its folders."""
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("*/*.json"))]
    found = {file: json_file(folder, str(file.relative_to(folder))) for file in files}
    lists = {file: items for file, items in found.items() if isinstance(items, list) and _is_item(items[:1])}
    if not lists:
        raise BadManifest(
            f"folder {str(folder)!r} has no JSON list whose items have src_video_name; give IVEBench's folder"
        )
    return lists


def _is_item(items: list[Any]) -> bool:
    return bool(items) and isinstance(items[0], dict) and "src_video_name" in items[0]


def _case(folder: Path, beside: Path, entry: Entry) -> Case:
    name = entry.name("src_video_name")
    stem = PurePosixPath(name).stem if name.lower().endswith(".mp4") else name
    near = "" if beside == folder else f"{beside.relative_to(folder)}/"
    bases = dict.fromkeys(f"{start}{part}/" if part else start for start in (near, "") for part in FOLDERS)
    places = [f"{base}{each}" for base in bases for each in (stem, f"{stem}.mp4")]
    more = tuple((field, text) for field in MORE if (text := _plain(entry, field)))
    return Case(
        entry.label("id"),
        entry.clip(folder, places, "src_video_name"),
        entry.text("source_prompt", needed=False),
        entry.text("target_prompt"),
        entry.label("category", needed=False) or "all",
        f"target_videos/{stem}",
        f"source_videos/{stem}",
        instruction=entry.text("edit_prompt", needed=False),
        more=more,
    )


def _plain(entry: Entry, field: str) -> str:
    """A field of any kind as text: spans may be lists."""
    value = entry.fields.get(field)
    return entry.label(field, needed=False) if isinstance(value, str | int | float | None) else json.dumps(value)[:2000]


def index(folder: Path, done: Collection[str]) -> dict[str, bytes]:
    """The items whose edits are there."""
    items = [item for listed in _lists(folder).values() for item in listed if str(item.get("id")) in done]
    return {"info.json": json.dumps(items, indent=2, ensure_ascii=False).encode()}


IVEBENCH = Benchmark(
    "ivebench",
    "IVEBench",
    "600 clips of 32 to 1024 frames, 720p to 8K, an instruction each, eight kinds",
    "not found: neither the repository nor the pages that were seen name a licence",
    read,
    Form("png", size="model"),
    (
        Column("clip_t", own=False),
        Column("clip_consistency", own=False),
        Column("dino_consistency", own=False),
        Column("motion_fidelity_score", own=False),
        Column("structure_distance", own=False),
        Column("warp_error", own=False),
    ),
    index,
)
