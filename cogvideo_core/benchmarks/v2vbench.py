"""V2VBench: 50 clips with three prompts each.

Read as documented (github.com/wenhao728/awesome-diffusion-v2v, doc/README.md): `config.yaml` with a list `data` of
video_id and edit prompts; clips in `frames/<video_id>/` or `videos/<video_id>.mp4`. Laid out as its evaluator reads it
(v2vbench/base_evaluator.py): `edited_videos/<video_id>/<number>/`, and the sources of the same frames beside them, for
its motion alignment compares them frame by frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from cogvideo_core.benchmarks.cases import Benchmark, Case, Column, Form
from cogvideo_core.benchmarks.reading import Entry, entries, first_file, yaml_file

NAMES = ("config.yaml", "config.yml")
MORE = ("src_words", "tgt_words")


def read(folder: Path, prompts: str) -> list[Case]:
    """Raises BadManifest."""
    return [case for entry in _entries(folder)[1] for case in _cases(folder, entry)]


def _entries(folder: Path) -> tuple[Any, Iterator[Entry]]:
    name = first_file(folder, NAMES, "V2VBench")
    found = yaml_file(folder, name)
    data = found.get("data") if isinstance(found, dict) else found
    return found, entries(folder / name, data if isinstance(data, list) else None)


def _cases(folder: Path, entry: Entry) -> list[Case]:
    video = entry.name("video_id")
    candidates = (f"frames/{video}", f"videos/{video}.mp4", f"videos/{video}.gif", video, f"{video}.mp4")
    clip, source = entry.clip(folder, candidates, "video_id"), entry.text("prompt", needed=False)
    edits = entry.fields.get("edit")
    if not isinstance(edits, list) or not edits or not all(isinstance(edit, dict) for edit in edits):
        raise entry.refused("edit", "it is no list of objects with a prompt", "give the benchmark's own list")
    return [_case(entry, video, clip, source, number, edit) for number, edit in enumerate(edits)]


def _case(entry: Entry, video: str, clip: str, source: str, number: int, fields: dict[str, Any]) -> Case:
    edit = Entry(entry.file, f"{entry.where}, edit {number}", fields)
    more = tuple((name, text) for name in MORE if (text := edit.text(name, needed=False)))
    kind = edit.label("type", needed=False) or "all"
    place = f"edited_videos/{video}/{number}"
    return Case(
        f"{video}/{number}", clip, source, edit.text("prompt"), kind, place, f"source_videos/{video}", more=more
    )


def index(folder: Path, done: Collection[str]) -> dict[str, bytes]:
    """The list with the clips of which every edit is there: the evaluator counts a clip's edits, and stops where one
    is missing."""
    found, listed = _entries(folder)
    whole = [
        dict(entry.fields)
        for entry in listed
        if all(f"{entry.fields['video_id']}/{number}" in done for number in range(len(entry.fields["edit"])))
    ]
    about = found if isinstance(found, dict) else {}
    return {NAMES[0]: yaml.safe_dump(about | {"data": whole}, sort_keys=False, allow_unicode=True).encode()}


V2VBENCH = Benchmark(
    "v2vbench",
    "V2VBench",
    "50 clips of 24 frames, 512x512, three prompts each",
    "evaluator: MIT; the data set's card names no licence",
    read,
    Form("png", digits=2),
    (
        Column("clip_consistency"),
        Column("dino_consistency"),
        Column("clip_t"),
        Column("pick_score"),
        Column("motion_alignment", own=False),
        Column("warp_error", own=False),
    ),
    index,
)
