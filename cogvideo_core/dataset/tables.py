"""Turns a run's records into the tables and the dataset; earlier runs' results under the same root are merged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.dataset import collect
from cogvideo_core.dataset.verdicts import judge_of, with_verdicts
from cogvideo_core.errors import BadSpec, CorruptObject
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.stages.early import stop_spec
from cogvideo_core.stages.failures import STAGES, failure, is_failure
from cogvideo_core.stages.judge import calibration_of
from cogvideo_core.storage.ledger import Commit, Ledger, Verify
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store, shown_clip, unsigned

Record = dict[str, Any]
ROWS_AT_ONCE = 5_000
logger = logging.getLogger(__name__)


def read_table(root: str, name: str) -> list[Record]:
    """Rows of tables/`name`.parquet."""
    return read_rows(root, f"tables/{name}.parquet")


def read_rows(root: str, name: str) -> list[Record]:
    """Rows of a Parquet file under the root; none where there is no such file yet, or one that can't be read."""
    fs, path = open_store(f"{root}/{name}")
    with storing(name):
        if not fs.exists(path):
            return []
        raw = fs.cat_file(path)
    try:
        return pq.read_table(io.BytesIO(raw)).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        logger.warning("%s can't be read (%s); it is made anew from what is committed", name, error)
        return []


def iter_table(root: str, name: str, columns: list[str] | None = None) -> Iterator[Record]:
    """Rows of tables/`name`.parquet in their order, a few thousand in memory at a time, these columns or all.

    Raises BadSpec where there is no such table, CorruptObject where it can't be read.
    """
    fs, path = open_store(url := f"{root}/tables/{name}.parquet")
    with storing(url):
        try:
            file = fs.open(path, "rb")
        except FileNotFoundError as error:
            problem = f"field output.root: there is no table at {url!r}; make it with cogvideo-edit collect"
            raise BadSpec(problem) from error
    with file:
        try:
            for part in pq.ParquetFile(file).iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                yield from part.to_pylist()
        except (pa.ArrowException, ValueError) as error:
            raise CorruptObject(f"{url!r} can't be read ({error}); make it anew with cogvideo-edit collect") from error


def committed_rows(ledger: Ledger) -> list[Record]:
    """The rows that the committed edits carry."""
    return [commit.record["row"] for commit in ledger.units("edits") if "row" in commit.record]


def merged_edits(
    ledger: Ledger, root: str, rows: Iterable[Record], verify: Verify = "size"
) -> tuple[list[collect.EditRow], list[Record]]:
    """Every committed edit under the root with its files' URLs: this run's, earlier ones, and those of runs that
    ended before writing tables. Second, a failure for each edit of the tables whose files are gone.

    A clip that was copied or touched has another source_id, but is the same clip: the later row wins.
    """
    every = [*earlier_edits(root), *rows]
    known = {row["edit_key"] for row in every}
    untold = [ledger.find("edits", key) for key in ledger.keys("edits") if key not in known]
    every += [commit.record["row"] for commit in untold if commit and "row" in commit.record]
    merged = {(shown_clip(row["clip"]), row["window"], row["edit_key"]): row for row in every}
    found, lost = [], []
    for row in merged.values():
        edit, source = ledger.find("edits", row["edit_key"], verify), ledger.find("sources", row["source_key"], verify)
        if edit is None or source is None:
            lost.append(failure(row, "collect", _gone(row, "edit" if edit is None else "source video"), 1))
            continue
        objects = {
            "edit_object": url_of(ledger, edit, "edit.mp4"),
            "source_object": url_of(ledger, source, "source.mp4"),
            "edit_sha256": edit.files["edit.mp4"].sha256,
            "source_sha256": source.files["source.mp4"].sha256,
        }
        found.append(cast(collect.EditRow, row | objects))
    return found, lost


def stopped_edits(ledger: Ledger, about: Record, made: set[str], verify: Verify = "size") -> list[collect.EditRow]:
    """The rows of edits that the root's judge has given up early, and that were not made by other settings."""
    spec = judge_of(about)
    if spec.early_stop != "on":
        return []
    calibration, found = calibration_of(ledger, spec), list[Record]()
    for commit in ledger.units("judgements"):
        row = commit.record.get("row")
        if row and row["edit_key"] not in made and commit.spec == stop_spec(row["edit_key"], spec, calibration):
            source = ledger.find("sources", row["source_key"], verify)
            if source is not None:
                found.append(row | {"edit_object": "", "source_object": url_of(ledger, source, "source.mp4")})
    return [cast(collect.EditRow, row) for row in found]


def _gone(row: Record, what: str) -> CorruptObject:
    return CorruptObject(f"clip {shown_clip(row['clip'])!r}: the {what} of an earlier run is gone; run it again")


def url_of(ledger: Ledger, commit: Commit, name: str) -> str:
    fs, path = ledger.open_url(commit, name)
    return str(fs.unstrip_protocol(path))


def earlier_edits(root: str) -> list[Record]:
    """Rows of the last collection, scores folded back from their columns."""
    rows = []
    for row in (row for row in read_table(root, "edits") if row["state"] == "done"):  # stops are in the ledger
        scores = {k.removeprefix("score_"): row.pop(k) for k in list(row) if k.startswith("score_")}
        rows.append(row | {"scores": {k: v for k, v in scores.items() if v is not None}})
    return rows


def merged_failures(root: str, records: Iterable[Record], last_stage: str) -> list[Record]:
    """This run's failures, and earlier ones that it says nothing about: of other clips and windows, or later stages."""
    reached = {(shown_clip(record["clip"]), record.get("window") or 0) for record in records}
    told = STAGES[: STAGES.index(last_stage) + 1]
    kept = [
        row
        for row in read_table(root, "errors")
        if row["stage"] != "collect" and ((row["clip"], row["window"]) not in reached or row["stage"] not in told)
    ]
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
    fs, path = open_store(f"{root}/plan/settings.json")
    with storing("plan/settings.json"):
        if about:
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            text = unsigned(json.dumps(about, indent=2))
            fs.pipe_file(path, f"{text}\n".encode())
            return dict(json.loads(text))
        raw = fs.cat_file(path) if fs.exists(path) else b"{}"
    try:
        return dict(json.loads(raw))
    except (ValueError, TypeError):
        logger.warning("plan/settings.json can't be read; card and gallery show no settings until the next run")
        return {}


def collect_run(
    output: OutputSpec, ledger: Ledger, records: Iterable[Record], about: Record, last_stage: str = "edit"
) -> Record:
    """Writes tables/, dataset/ and index.html under the root; returns the counts that `dataset.collect` gives.

    `records` is iterated more than once. `about` is what the card and the gallery show as settings; if empty, they
    show those of the root's last run. Raises BadSpec for a root where nothing was ever done.
    """
    if not records and not any(True for _ in ledger.keys("sources")):
        raise BadSpec(f"field output.root: nothing is committed under {output.root!r}; give the root of a run")
    about = kept_settings(output.root, about)
    rows = [edit for record in records for edit in record.get("edits", []) if edit["state"] == "done"]
    edits, lost = merged_edits(ledger, output.root, rows, output.verify)
    edits += stopped_edits(ledger, about, {row["edit_key"] for row in edits}, output.verify)
    return collect.collect(
        output.root,
        with_verdicts(ledger, edits, about),
        merged_failures(output.root, records, last_stage) + lost,
        [*read_table(output.root, "timings"), *timings_of(records)],
        about,
        output.gallery,
        recheck=output.verify == "full",
    )
