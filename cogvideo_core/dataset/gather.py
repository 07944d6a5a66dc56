"""From what is committed under a root to the decided rows of its tables, clip by clip.

Rows come from the last tables, from this run's records, and, for edits that neither knows, from their commits. A row of
the last tables is believed where the listing of the store still shows its commit and its objects with their sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple, cast

from cogvideo_core.dataset.edit_row import EditRow
from cogvideo_core.dataset.spool import Spool, in_turn, packed, unpacked
from cogvideo_core.dataset.verdicts import JUDGED_BY, Deciding
from cogvideo_core.errors import CorruptObject
from cogvideo_core.judging.policy import JUDGED
from cogvideo_core.stages.failures import failure
from cogvideo_core.storage.keys import Stage, unit_folder
from cogvideo_core.storage.ledger import Commit, Ledger, Verify
from cogvideo_core.storage.uris import printable, shown_clip

Record = dict[str, Any]
AT_ONCE, AHEAD = 8, 32
PART = 200  # rows that a thread decides at a time, at least
FILES: dict[str, tuple[Stage, str]] = {"edit": ("edits", "edit.mp4"), "source": ("sources", "source.mp4")}
PLACES = ("edit_object", "edit_bytes", "source_object", "source_bytes")
LISTED = "listed"
SCHEMA = """
CREATE TABLE objects (name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE rows (clip TEXT, part INTEGER, edit_key TEXT, edit TEXT, edit_bytes INTEGER, source TEXT,
    source_bytes INTEGER, edit_commit TEXT, source_commit TEXT, row TEXT);
CREATE TABLE lost (row TEXT);
"""
ADD_ROW = "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
HAS = "EXISTS (SELECT 1 FROM objects o WHERE o.name = {})"
HAS_SIZE = "EXISTS (SELECT 1 FROM objects o WHERE o.name = {} AND o.size = {})"
ROWS = f"""
SELECT clip, part, {HAS.format("edit_commit")} AND {HAS_SIZE.format("edit", "edit_bytes")},
    {HAS.format("source_commit")} AND {HAS_SIZE.format("source", "source_bytes")}, row
FROM rows ORDER BY clip, part, rowid
"""
UNTOLD = """
CREATE INDEX row_keys ON rows (edit_key);
CREATE TABLE untold AS SELECT substr(name, 10, 64) AS edit_key FROM objects
WHERE name > 'edits/' AND name < 'edits0' AND name LIKE '%/commit.json' AND length(name) = 85
AND NOT EXISTS (SELECT 1 FROM rows WHERE edit_key = substr(name, 10, 64));
DROP INDEX row_keys;
"""
logger = logging.getLogger(__name__)


class Spooled(NamedTuple):
    """A row, and which of its commits and objects the listing shows as it has them."""

    clip: str
    part: int
    edit_listed: bool
    source_listed: bool
    text: str


class Gathering:
    """Reads the rows of a root; `spool` holds the listing of its stages in the table `objects`."""

    def __init__(self, ledger: Ledger, spool: Spool, deciding: Deciding, verify: Verify) -> None:
        self.ledger, self.spool, self.deciding, self.verify = ledger, spool, deciding, verify
        self.address = str(ledger.objects.fs.unstrip_protocol(ledger.objects.root.rstrip("/")))

    def edits(self, known: Iterable[Record], made: Iterable[Record]) -> Iterator[EditRow]:
        """Every committed edit with its files' URLs, its verdict and its rank, sorted by clip and window; of a row that
        comes again (a clip that was copied or touched has another source_id, but is the same clip) the later one."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self.spool.add(ADD_ROW, map(_values, known))
            self.spool.add(ADD_ROW, map(_values, made))
            self.spool.run(UNTOLD)
            keys = (key for (key,) in self.spool.rows("SELECT edit_key FROM untold"))
            told = in_turn(pool, self._row_of, keys, AHEAD)
            self.spool.add(ADD_ROW, (_values(row) for row in told if row))
            self.spool.add(ADD_ROW, map(_values, self._stopped(pool)))
            rows = (Spooled(*values) for values in self.spool.rows(ROWS))
            for edits, lost in in_turn(pool, self._settled, _parts(rows), AHEAD):
                self.spool.add("INSERT INTO lost VALUES (?)", ((packed(row),) for row in lost))
                yield from edits

    def lost(self) -> Iterator[Record]:
        """A failure for each edit whose files are gone; known when all edits were read."""
        return (dict(unpacked(text)) for (text,) in self.spool.rows("SELECT row FROM lost ORDER BY rowid"))

    def _row_of(self, key: str) -> Record | None:
        commit = self.ledger.find("edits", key, "none")
        return commit.record["row"] | self._place("edit", commit) if commit and "row" in commit.record else None

    def _stopped(self, pool: ThreadPoolExecutor) -> Iterator[Record]:
        """The rows of edits that the root's judge has given up early, and that were not made by other settings."""
        spec, calibration = self.deciding.spec, self.deciding.calibration
        if spec.early_stop != "on":
            return
        from cogvideo_core.stages.early import stop_spec  # imports diffusers, which collecting need not wait for

        commits = in_turn(pool, self._judgement, self.ledger.keys("judgements"), AHEAD)
        for commit in commits:
            row = commit.record.get("row") if commit else None
            if commit and row and commit.spec == stop_spec(row["edit_key"], spec, calibration):
                made = f"{unit_folder('edits', row['edit_key'])}/commit.json"
                if not self.spool.one("SELECT 1 FROM objects WHERE name = ?", made):
                    yield row

    def _judgement(self, key: str) -> Commit | None:
        try:
            return self.ledger.read("judgements", key)
        except FileNotFoundError:
            return None
        except ValueError as error:
            logger.warning("judgements %s: commit.json %s; it is left out", key, error)
            return None

    def _settled(self, rows: list[Spooled]) -> tuple[list[EditRow], list[Record]]:
        """The decided edits of whole clips, and failures for those that are lost."""
        found: list[Record] = []
        lost: list[Record] = []
        for _, group in groupby(rows, key=lambda row: (row.clip, row.part)):
            sources: dict[str, Record | None] = {}
            for row in _merged(group):
                gone = self._locate(row, sources)
                if not gone:
                    found.append(row)
                elif row["state"] != "stopped":
                    lost.append(failure(row, "collect", _gone(row, gone), 1))
        return self.deciding.decided(cast(list[EditRow], found)), lost

    def _locate(self, row: Record, sources: dict[str, Record | None]) -> str:
        """Adds where the row's objects are; what is gone, "" for nothing. `sources` holds those found before."""
        edit_listed, source_listed = row.pop(LISTED)
        if row["state"] == "stopped":
            row["edit_object"] = ""
        elif self.verify != "full" and edit_listed:
            row["edit_object"] = f"{self.address}/{row['edit_object']}"
        elif commit := self.ledger.find("edits", row["edit_key"], self.verify):
            row |= self._place("edit", commit, self.address)
        else:
            return "edit"
        key = row["source_key"]
        if key not in sources:
            if self.verify != "full" and source_listed:
                place = {"source_object": f"{self.address}/{row['source_object']}", "source_bytes": row["source_bytes"]}
                sources[key] = place
            else:
                commit = self.ledger.find("sources", key, self.verify)
                sources[key] = self._place("source", commit, self.address) if commit else None
        row |= sources[key] or {}
        return "" if sources[key] else "source video"

    def _place(self, what: str, commit: Commit, address: str = "") -> Record:
        name = FILES[what][1]
        stored, where = commit.files[name], self.ledger.object_name(commit, name)
        return {
            f"{what}_object": f"{address}/{where}" if address else where,
            f"{what}_bytes": stored.size,
            f"{what}_sha256": stored.sha256,
        }


def _values(row: Record) -> tuple[Any, ...]:
    clip = shown_clip(printable(row["clip"]))
    commits = (f"{unit_folder(stage, row[f'{what}_key'])}/commit.json" for what, (stage, _) in FILES.items())
    return clip, row["window"], row["edit_key"], *map(row.get, PLACES), *commits, packed(row | {"clip": clip})


def _parts(rows: Iterable[Spooled]) -> Iterator[list[Spooled]]:
    """The rows in lists of whole clips and windows."""
    part: list[Spooled] = []
    for _, group in groupby(rows, key=lambda row: (row.clip, row.part)):
        part += group
        if len(part) >= PART:
            yield part
            part = []
    if part:
        yield part


def _merged(rows: Iterable[Spooled]) -> list[Record]:
    """The edits of one clip and window in the tables' order, stops last; of the rows of an edit the last, with what an
    earlier one knows of its objects and judge."""
    merged: dict[tuple[bool, str], Record] = {}
    for spooled in rows:
        row = unpacked(spooled.text)
        row |= {"state": row.get("state", "done"), LISTED: (spooled.edit_listed, spooled.source_listed)}
        key = row["state"] == "stopped", row["edit_key"]
        merged[key] = _completed(row, merged.get(key, {}))
    return [merged[key] for key in sorted(merged, key=lambda key: (key[0], _rank(merged[key])))]


def _completed(row: Record, before: Record) -> Record:
    if row.get("edit_object") or row["source_key"] != before.get("source_key"):
        return row
    row |= {name: before.get(name) for name in (*PLACES, LISTED)}
    if JUDGED_BY in before:
        judged = {name: value for name, value in before["scores"].items() if name in JUDGED}
        row |= {"scores": row["scores"] | judged, JUDGED_BY: before[JUDGED_BY]}
    return row


def _rank(row: Record) -> tuple[Any, ...]:
    first = (row["target_prompt"], row.get("recipe", ""), row["seed"], row.get("strength", 1.0))
    return (*first, row["edit_key"])


def _gone(row: Record, what: str) -> CorruptObject:
    return CorruptObject(f"clip {shown_clip(row['clip'])!r}: the {what} of an earlier run is gone; run it again")
