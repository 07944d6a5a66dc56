"""Turns a run's records into the tables and the dataset; earlier runs' results under the same root are merged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.dataset import collect, state
from cogvideo_core.dataset.gather import SCHEMA, Gathering
from cogvideo_core.dataset.rows import TABLE_FIELDS
from cogvideo_core.dataset.spool import Spool
from cogvideo_core.dataset.target import Target
from cogvideo_core.dataset.verdicts import JUDGED_BY, Deciding
from cogvideo_core.dataset.videos import Placing
from cogvideo_core.errors import BadSpec, CorruptObject
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.stages.failures import STAGES, is_failure
from cogvideo_core.storage.ledger import Ledger
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


def earlier(root: str, name: str) -> Iterator[Record]:
    """Rows of a table of the last collection: none where there is none, and up to the first that can't be read, which
    the log tells."""
    try:
        yield from iter_table(root, name)
    except BadSpec:
        return
    except CorruptObject as error:
        logger.warning("%s; what is missing is taken from what is committed", error)


def committed_rows(ledger: Ledger) -> Iterator[Record]:
    """The rows that the committed edits carry."""
    return (commit.record["row"] for commit in ledger.units("edits") if "row" in commit.record)


def earlier_edits(root: str) -> Iterator[Record]:
    """Rows of the last collection, scores folded back from their columns; without stops, which are in the ledger."""
    for row in (row for row in earlier(root, "edits") if row["state"] == "done"):
        scores = {name.removeprefix("score_"): row[name] for name in row if name.startswith("score_")}
        known = {name: value for name, value in row.items() if name in TABLE_FIELDS}
        yield known | {"scores": {name: value for name, value in scores.items() if value is not None}}


def merged_failures(root: str, records: Iterable[Record], last_stage: str) -> Iterator[Record]:
    """This run's failures, and earlier ones that it says nothing about: of other clips and windows, or later stages."""
    told = STAGES[: STAGES.index(last_stage) + 1]
    failed = {(row["clip"], row["window"]) for row in earlier(root, "errors")}
    places = ((shown_clip(record["clip"]), record.get("window") or 0) for record in records)
    reached = {place for place in places if place in failed} if failed else set()
    for row in earlier(root, "errors"):
        if row["stage"] != "collect" and ((row["clip"], row["window"]) not in reached or row["stage"] not in told):
            yield row
    yield from filter(is_failure, records)


def timings_of(records: Iterable[Record]) -> Iterator[Record]:
    """A row for each stage of each clip that did work."""
    for record in records:
        for row in record.get("timings", []):
            if not row["reused"]:
                yield {"clip": record.get("clip", ""), "source_id": record.get("source_id", ""), **row}


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
    output: OutputSpec,
    ledger: Ledger,
    records: Iterable[Record],
    about: Record,
    last_stage: str = "edit",
    placing: Placing | None = None,
) -> Record:
    """Writes tables/, dataset/ and index.html under the root; returns the counts that `dataset.collect` gives.

    `records` is iterated more than once. Where there are none, and nothing that the last collection depended on or
    wrote has changed since, nothing is written. `about` is what the card and the gallery show as settings; if empty,
    they show those of the root's last run. `placing` copies the videos. Raises BadSpec for a root where nothing was
    ever done.
    """
    if not records and not any(True for _ in ledger.keys("sources")):
        raise BadSpec(f"field output.root: nothing is committed under {output.root!r}; give the root of a run")
    about, target, linked = kept_settings(output.root, about), Target.of(output.root), output.videos == "link"
    with Spool(SCHEMA) as spool:
        deciding = Deciding.of(ledger, about)
        found, before = state.seen(deciding, spool, output, about), state.last(target)
        if not records and output.verify != "full" and state.unchanged(target, found, before, linked):
            logger.info("nothing has changed under %s since its last collection", unsigned(output.root))
            return before.counts | {"copied": 0, "kept": before.counts["copied"] + before.counts["kept"]}
        gathering = Gathering(ledger, spool, deciding, output.verify)
        target.remove(state.FILE)  # while tables are written, they are nobody's
        counts = collect.collect_into(
            target,
            gathering.edits(_known(output.root, before.judge), _made(records)),
            chain(merged_failures(output.root, records, last_stage), gathering.lost()),
            chain(earlier(output.root, "timings"), timings_of(records)),
            about,
            output.gallery,
            collect.Videos(output.verify == "full", linked, placing),
        )
        state.write(target, found, counts, linked)
    return counts


def _known(root: str, judge: str) -> Iterator[Record]:
    """Rows of the last collection, which knows the scores of this judge."""
    return (row | {JUDGED_BY: judge} if judge else row for row in earlier_edits(root))


def _made(records: Iterable[Record]) -> Iterator[Record]:
    """Rows of this run."""
    return (edit for record in records for edit in record.get("edits", []) if edit["state"] == "done")
