"""Exports the edits of a run: plans shards from the table, writes those that are not there yet, then card and sums."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from cogvideo_core.dataset.spool import in_turn
from cogvideo_core.dataset.tables import kept_settings
from cogvideo_core.exports.card import export_card
from cogvideo_core.exports.folders import Finetrainers, Triplets
from cogvideo_core.exports.formats import Content, Format, Shard, shards
from cogvideo_core.exports.outcome import Outcome
from cogvideo_core.exports.parquet import Parquet
from cogvideo_core.exports.place import Files, Place
from cogvideo_core.exports.rows import READERS, Item, Video, count_wanted, items, table_schema
from cogvideo_core.exports.spec import ExportSpec
from cogvideo_core.exports.webdataset import WebDataset
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.objects import Objects
from cogvideo_core.storage.uris import check_uri

LARGEST_BYTES = 1 << 30  # of one video, which is held in memory
ITEMS_AHEAD = 2 * READERS
Read = bytes | str
"""A video's bytes, or what is wrong with it."""


def export(
    root: str,
    dest: str,
    spec: ExportSpec,
    step: Callable[[], None] = lambda: None,
    start: Callable[[int], None] = lambda total: None,
) -> dict[str, Any]:
    """Writes the chosen edits of a run's root to `dest`, both a folder or an fsspec URL; done again, it goes on.

    `start` hears how many rows there are to deal with, `step` is called for each. Returns the counts of
    `Outcome.as_json`, and `bytes` written or kept and `seconds`. Memory holds the rows of the shards that are being
    filled and some videos. Raises BadSpec for a table without such edits and a `dest` with something else in it,
    CorruptObject for a table that can't be read, ForbiddenUri, and StorageError, after which the same call goes on.
    """
    started, outcome = time.perf_counter(), Outcome(step)
    with Place(dest) as place:
        schema = table_schema(check_uri(root))
        start(count_wanted(root, spec, schema))
        ledger, form = Ledger(root), format_of(spec, schema, place)
        place.begin({"to": spec.to, "content": spec.content, "root": _address(ledger)}, spec.overwrite)
        written = 0
        for shard in shards(items(ledger, root, spec, outcome), form.shard_bytes):
            files = _finished(shard, place, spec, outcome, form) or _write(shard, place, spec, outcome, form, ledger)
            written += sum(stored.size for stored in files.values())
        files = form.finish()
        about = kept_settings(root, {})
        card = export_card(spec, outcome, form, schema, about).encode()
        place.add({**files, "README.md": place.write("README.md", card)})
        place.finish()
    return outcome.as_json() | {"bytes": written, "seconds": time.perf_counter() - started}


def format_of(spec: ExportSpec, table: pa.Schema, place: Place) -> Format:
    """The format that a specification names, for rows of a table with these columns."""
    size = spec.shard_mb * 10**6
    if spec.to == "webdataset":
        return WebDataset(size)
    if spec.to == "parquet":
        return Parquet(size, table)
    return Finetrainers(place) if spec.to == "finetrainers" else Triplets(place)


def _address(ledger: Ledger) -> str:
    """Tells roots apart without saying where they are: what is exported may be published."""
    return fingerprint([str(ledger.objects.fs.protocol), ledger.objects.root])


def _finished(shard: Shard, place: Place, spec: ExportSpec, outcome: Outcome, form: Format) -> Files:
    """The files of a shard that an earlier try has finished, none where it is still to be written."""
    files = place.finished(shard.name, shard.plan(spec.content), spec.verify)
    if not files:
        return {}
    for item in shard.items:
        outcome.add(item)
        form.tell(item)
    outcome.shards_kept += 1
    place.add(files, record=shard.name)
    return files


def _write(shard: Shard, place: Place, spec: ExportSpec, outcome: Outcome, form: Format, ledger: Ledger) -> Files:
    """Writes a shard; it is recorded as finished only if none of its edits had to be left out."""
    before = outcome.left_out
    files = form.write(shard, _contents(shard, outcome, form, ledger.objects), place)
    whole = files and outcome.left_out == before
    if whole:
        place.record(shard.name, shard.plan(spec.content), files)
    outcome.shards += bool(files)
    place.add(files, record=shard.name if whole else "")
    return files


def _contents(shard: Shard, outcome: Outcome, form: Format, objects: Objects) -> Iterator[Content]:
    """The shard's edits with their videos, read ahead by threads; those that can't be had are left out and counted."""

    def both(given: tuple[Item, Future[Read]]) -> tuple[Item, Read, Read]:
        item, source = given
        return item, read_video(objects, item.edit), source.result()

    with ThreadPoolExecutor(READERS) as pool:
        given = _with_sources(pool, objects, shard.items)
        for item, edit, source in in_turn(pool, both, given, ITEMS_AHEAD):
            if isinstance(edit, str):
                outcome.leave_out(item.row["clip"], f"its edit {item.row['edit_key'][:12]}: {edit}")
            elif isinstance(source, str):
                outcome.leave_out(item.row["clip"], f"its source {item.row['source_key'][:12]}: {source}")
            else:
                outcome.add(item)
                form.tell(item)
                yield Content(item, edit, source)


def _with_sources(pool: Executor, objects: Objects, items: Iterable[Item]) -> Iterator[tuple[Item, Future[Read]]]:
    """Each edit with its source, which is read once for all adjacent edits of a clip."""
    held: tuple[Video, Future[Read]] | None = None
    for item in items:
        if held is None or held[0] != item.source:
            held = item.source, pool.submit(read_video, objects, item.source)
        yield item, held[1]


def read_video(objects: Objects, video: Video) -> Read:
    """The committed bytes of a video, or what is wrong with it. Raises StorageError where the store fails."""
    if video.size > LARGEST_BYTES:
        return f"the video has {video.size} bytes, more than {LARGEST_BYTES}"
    try:
        data = objects.read(video.object, 0, video.size + 1)
    except FileNotFoundError:
        return "the committed video is missing"
    if len(data) != video.size:
        return f"the video has not the {video.size} bytes that were committed"
    good = hashlib.sha256(data).hexdigest() == video.sha256
    return data if good else "the video does not match its sha256"
