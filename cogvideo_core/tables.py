"""From a run's records to the tables and the dataset: what earlier runs of the same root left is kept and merged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import fsspec
import pyarrow.parquet as pq

from cogvideo_core import dataset
from cogvideo_core.dataset_rows import shown_clip
from cogvideo_core.failures import is_failure
from cogvideo_core.ledger import Commit, Ledger
from cogvideo_core.specs import OutputSpec
from cogvideo_core.stores.objects import storing

Record = dict[str, Any]


def read_table(root: str, name: str) -> list[Record]:
    """Rows of tables/`name`.parquet; none where there is no such table yet."""
    fs, path = fsspec.core.url_to_fs(f"{root}/tables/{name}.parquet")
    if not fs.exists(path):
        return []
    with fs.open(path, "rb") as file:
        return pq.read_table(file).to_pylist()


def merged_edits(ledger: Ledger, root: str, rows: Iterable[Record]) -> list[dataset.EditRow]:
    """Every committed edit under the root, each with where its files are: this run's, earlier ones, and those of runs
    that never came to their tables.

    A clip that was copied or touched has another source_id, but is the same clip: the later row stands.
    """
    every = [*earlier_edits(root), *rows]
    known = {row["edit_key"] for row in every}
    untold = [ledger.find("edits", key) for key in ledger.keys("edits") if key not in known]
    every += [commit.record["row"] for commit in untold if commit and "row" in commit.record]
    merged = {(shown_clip(row["clip"]), row["window"], row["edit_key"]): row for row in every}
    found = []
    for row in merged.values():
        edit, latents = ledger.find("edits", row["edit_key"]), ledger.find("latents", row["latents_key"])
        if edit is not None and latents is not None:
            objects = {
                "edit_object": url_of(ledger, edit, "edit.mp4"),
                "source_object": url_of(ledger, latents, "source.mp4"),
            }
            found.append(cast(dataset.EditRow, row | objects))
    return found


def url_of(ledger: Ledger, commit: Commit, name: str) -> str:
    fs, path = ledger.open_url(commit, name)
    return str(fs.unstrip_protocol(path))


def earlier_edits(root: str) -> list[Record]:
    """Rows of the last collection, scores folded back from their columns."""
    rows = []
    for row in read_table(root, "edits"):
        scores = {k.removeprefix("score_"): row.pop(k) for k in list(row) if k.startswith("score_")}
        rows.append(row | {"scores": {k: v for k, v in scores.items() if v is not None}})
    return rows


def merged_failures(root: str, records: list[Record]) -> list[Record]:
    """This run's failures, and earlier ones of clips that this run did not touch."""
    touched = {shown_clip(record["clip"]) for record in records}
    kept = [row for row in read_table(root, "errors") if row["clip"] not in touched]
    return kept + [record for record in records if is_failure(record)]


def timings_of(records: Iterable[Record]) -> list[Record]:
    """A row for each stage of each clip that did work."""
    return [
        {"clip": record.get("clip", ""), "source_id": record.get("source_id", ""), **row}
        for record in records
        for row in record.get("timings", [])
        if not row["reused"]
    ]


def kept_settings(root: str, about: Record) -> Record:
    """The settings that the card and the gallery show: those given, else those of the last run of this root."""
    fs, path = fsspec.core.url_to_fs(f"{root}/plan/settings.json")
    with storing("plan/settings.json"):
        if about:
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            fs.pipe_file(path, (json.dumps(about, indent=2) + "\n").encode())
            return about
        return dict(json.loads(fs.cat_file(path))) if fs.exists(path) else {}


def collect_run(output: OutputSpec, ledger: Ledger, records: list[Record], about: Record) -> Record:
    """Writes tables/, dataset/ and index.html under the root; returns the counts that `dataset.collect` gives.

    `about` is what the card and the gallery show as settings; empty for those of the root's last run.
    """
    rows = [edit for record in records for edit in record.get("edits", [])]
    return dataset.collect(
        output.root,
        merged_edits(ledger, output.root, rows),
        merged_failures(output.root, records),
        [*read_table(output.root, "timings"), *timings_of(records)],
        kept_settings(output.root, about),
        output.gallery,
    )
