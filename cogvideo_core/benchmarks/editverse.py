"""EditVerseBench: instructions with tagged sources, and target prompts.

Read as published (github.com/adobe-research/EditVerse, README.md): `test.json`, an object of entries by id, each with
`<text>`, `<video1>` (a path), `target_prompt`, `source_prompt`, `type`. Laid out as its evaluator reads it:
`<id>/generate.mp4` and `<id>/video1.mp4`, the clip as it was edited.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from cogvideo_core.benchmarks.cases import Benchmark, Case, Column, Form
from cogvideo_core.benchmarks.reading import Entry, entries, first_file, json_file

NAMES = ("test.json", "EditVerseBench/test.json", "EditVerseBench/EditVerseBench/test.json")
SOURCE = "<video1>"
TAG = re.compile(r"<(?:video|image|mask)\d+>")


def read(folder: Path, prompts: str) -> list[Case]:
    """The entries that have a first video; the others ask for videos that are no edits. Raises BadManifest."""
    name = first_file(folder, NAMES, "EditVerseBench")
    found = json_file(folder, name)
    listed = entries(folder / name, found if isinstance(found, dict) else None)
    cases = [
        _case((folder / name).parent, entry, key)
        for key, entry in zip(found, listed, strict=True)
        if entry.fields.get(SOURCE)
    ]
    return cases or [_case(folder, entry, key) for key, entry in zip(found, entries(folder / name, found), strict=True)]


def _case(folder: Path, entry: Entry, key: str) -> Case:
    name = entry._replace(fields={"id": key}).name("id")
    clip = entry.clip(folder, (entry.text(SOURCE),), SOURCE)
    others = sorted({tag for tag in entry.fields if TAG.fullmatch(tag)} - {SOURCE})
    more = (("direction", entry.text("direction", needed=False)), ("other_sources", " ".join(others)))
    return Case(
        name,
        clip,
        entry.text("source_prompt", needed=False),
        entry.text("target_prompt"),
        entry.label("type", needed=False) or "all",
        f"{name}/generate.mp4",
        f"{name}/video1.mp4",
        instruction=" ".join(TAG.sub(" ", entry.text("<text>", needed=False)).split()),
        more=tuple(pair for pair in more if pair[1]),
    )


def index(folder: Path, done: Collection[str]) -> dict[str, bytes]:
    """The list with the entries whose edits are there: the evaluator stops where one is missing."""
    found = json_file(folder, first_file(folder, NAMES, "EditVerseBench"))
    return {"test.json": json.dumps({key: found[key] for key in found if key in done}, indent=2).encode()}


EDITVERSE = Benchmark(
    "editverse",
    "EditVerseBench",
    "200 edits of 20 kinds, horizontal and vertical clips",
    "Adobe Research License: noncommercial research; clips from Pixabay, each under its terms",
    read,
    Form("mp4", size="model"),
    (
        Column("clip_consistency"),
        Column("dino_consistency"),
        Column("clip_t"),
        Column("pick_score"),
        Column("structure_distance", own=False),
    ),
    index,
)
