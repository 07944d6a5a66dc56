"""The run that disturbed ones are compared with: 20 clips x 4 prompts, 4 steps an edit, a batch a clip."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cogvideo_core.shapes.make import make_clips
from flows.edit_dataset import edit_dataset

CLIPS, PROMPTS = 20, 4
EDITS = CLIPS * PROMPTS
Record = dict[str, Any]


@dataclass(frozen=True)
class Undisturbed:
    """Where it lies, and what it cost: `evaluations` of the model in all, `a_batch` in the batch that had the most."""

    model: Path
    manifest: Path
    root: Path
    evaluations: int
    a_batch: int

    def groups(self, root: Path, **engine: Any) -> Record:
        return groups(self.model, self.manifest, root, **engine)

    def options(self, root: Path, **engine: Any) -> list[str]:
        """The same for the command line, the manifest first."""
        given = self.groups(root, **engine)
        values = [f"{group}.{field}={value}" for group, fields in given.items() for field, value in fields.items()]
        sets = [part for value in values if not value.startswith(("dataset.", "output.")) for part in ("--set", value)]
        return [str(self.manifest), "--output", str(root), *sets]

    def assert_same(self, root: Path) -> None:
        """The dataset under `root` is complete and this one, byte for byte."""
        ours, theirs = self.root / "dataset", root / "dataset"
        rows = [json.loads(line) for line in (theirs / "metadata.jsonl").read_text().splitlines()]
        assert len(rows) == EDITS
        assert {path.name for path in (theirs / "videos").iterdir()} == {p.name for p in (ours / "videos").iterdir()}
        for path in (ours / "metadata.jsonl", *(ours / "videos").iterdir()):
            assert (theirs / path.relative_to(ours)).read_bytes() == path.read_bytes(), path.name


def groups(model: Path, manifest: Path, root: Path, **engine: Any) -> Record:
    """The groups of settings; one batch at a time unless `engine` says otherwise."""
    return {
        "dataset": {"source": str(manifest)},
        "model": {"path": str(model)},
        "inversion": {"method": "fixed_point", "steps": 4, "gate": "off"},
        "output": {"root": str(root)},
        "engine": {"batches_in_flight": 1, "edits_per_batch": PROMPTS} | engine,
    }


def run(model: Path, folder: Path) -> Undisturbed:
    manifest, root = make_clips(folder / "in", CLIPS, PROMPTS), folder / "run"
    counts: Any = edit_dataset(**groups(model, manifest, root))
    assert (counts["clips"], counts["failed"], counts["dataset_edits"]) == (CLIPS, 0, EDITS)
    spent: Counter[str] = Counter()
    for row in pq.read_table(root / "tables/timings.parquet").to_pylist():
        spent[row["clip"]] += row["evaluations"]
    assert spent.total() == counts["evaluations"]
    return Undisturbed(model, manifest, root, counts["evaluations"], max(spent.values()))
