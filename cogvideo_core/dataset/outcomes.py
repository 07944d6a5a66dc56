"""The outcomes of a run's clips: records go to disk as clips finish and are read back for the tables.

A wave's records are in `waves/<wave>.jsonl` beside its plan: a line about the wave, then one line per clip.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import IO, Any, NamedTuple

from cogvideo_core.dataset.tables import read_table
from cogvideo_core.planning.tables import read_refused
from cogvideo_core.stages.failures import is_failure
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store

Record = dict[str, Any]
COUNTS = (
    "clips",
    "succeeded",
    "failed",
    "parked",
    "screened",
    "clips_reused",
    "edits",
    "edits_made",
    "edits_reused",
    "evaluations",
)


def counts_of(records: Iterable[Record], last_stage: str) -> Record:
    """Clips, failures, edits made and reused, and model evaluations."""
    counts = dict.fromkeys(COUNTS, 0)
    for record in records:
        edits, timings, failed = record.get("edits", []), record.get("timings", []), is_failure(record)
        counts["clips"] += 1
        counts["failed" if failed else "succeeded"] += 1
        counts["screened"] += record.get("kind") == "screened"
        counts["parked"] += bool(record.get("parked"))
        counts["clips_reused"] += not failed and all(row["reused"] for row in timings if row["stage"] == last_stage)
        counts["edits"] += len(edits)
        counts["edits_made"] += sum(not edit["reused"] for edit in edits)
        counts["edits_reused"] += sum(edit["reused"] for edit in edits)
        counts["evaluations"] += sum(row["evaluations"] for row in timings)
    return counts


def added(one: Record, other: Record) -> Record:
    """The sum of two counts."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in COUNTS}


Busy = dict[str, list[float]]
"""worker -> first and last reading of its model's busy seconds, a clock that only grows."""


def spanned(one: Busy, other: Busy) -> Busy:
    """Each worker's first and last reading of both."""
    both = {worker: [*one.get(worker, []), *other.get(worker, [])] for worker in one | other}
    return {worker: [min(looks), max(looks)] for worker, looks in both.items()}


class Spool:
    """The records of one wave while it runs: on disk, with their counts in memory. A context manager."""

    def __init__(self, last_stage: str) -> None:
        self.last_stage, self.counts = last_stage, dict.fromkeys(COUNTS, 0)
        self.loads: dict[str, int] = {}  # worker -> times it has loaded a model
        self.busy: Busy = {}
        self.stages: dict[str, float] = {}  # seconds of all clips
        self.started = time.perf_counter()
        self.file: IO[str] = tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def add(self, batch: list[Record]) -> None:
        self.counts = added(self.counts, counts_of(batch, self.last_stage))
        for record in batch:
            self.loads |= record.get("loads", {})
            self.busy = spanned(self.busy, record.get("busy", {}))
            for row in record.get("timings", []):
                self.stages[row["stage"]] = self.stages.get(row["stage"], 0.0) + row.get("seconds", 0.0)
        self.file.writelines(json.dumps(record) + "\n" for record in batch)

    def times(self) -> Record:
        """Seconds the wave has taken so far."""
        busy_s = sum(last - first for first, last in self.busy.values())
        wall_s = time.perf_counter() - self.started
        return {"wall_s": wall_s, "worker_s": wall_s * len(self.busy), "busy_s": busy_s, "stages": self.stages}

    def publish(self, root: str, wave: int, about: Record, folder: str = "plan") -> None:
        """Writes the wave's file; `about` comes first, with the counts."""
        self.file.flush()
        about = about | {"counts": self.counts, "stage": self.last_stage, "loads": self.loads, "times": self.times()}
        head = json.dumps(about) + "\n"
        url = wave_url(root, wave, folder)
        with storing(url), open(self.file.name, "rb") as lines:
            fs, path = open_store(url)
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            with fs.open(path, "wb") as sink:
                sink.write(head.encode())
                while part := lines.read(1 << 20):
                    sink.write(part)


def wave_url(root: str, wave: int, folder: str = "plan") -> str:
    return f"{root}/{folder}/waves/{wave:05d}.jsonl"


def _lines(url: str) -> Iterator[Record]:
    fs, path = open_store(url)
    with storing(path, (FileNotFoundError,)):
        file = fs.open(path, "rb")
    with file:
        yield from (json.loads(line) for line in file)


def finished(root: str, wave: int, about: Record, retryable: bool = False) -> Record | None:
    """The counts of a wave that ended, else None. Also None if its file disagrees with `about` (plan, settings, last
    stage), if the wave gave up, or if failures worth another try remain and `retryable` is False."""
    try:
        lines = _lines(wave_url(root, wave))
        head = next(lines)
        whole = about.items() <= {name: head.get(name) for name in about}.items()
        again = any(record.get("retryable") and not record.get("parked") for record in lines)
        if not whole or head.get("gave_up") or (again and not retryable):
            return None
        return dict(head["counts"])
    except (FileNotFoundError, StopIteration, ValueError, KeyError):
        return None


class Records:
    """All records of a run's waves, refused rows first; can be iterated any number of times."""

    def __init__(self, root: str, waves: int, folder: str = "plan") -> None:
        self.root, self.waves, self.folder = root, waves, folder

    def __iter__(self) -> Iterator[Record]:
        waves = (self.of_wave(wave) for wave in range(self.waves))
        return chain(read_refused(self.root, self.folder), chain.from_iterable(waves))

    def of_wave(self, wave: int) -> Iterator[Record]:
        with suppress(FileNotFoundError):  # a wave that was never run, or never came to its end
            yield from islice(_lines(wave_url(self.root, wave, self.folder)), 1, None)

    def heads(self) -> Iterator[Record]:
        """The first line, about itself, of each wave that ended."""
        for wave in range(self.waves):
            with suppress(FileNotFoundError):
                yield from islice(_lines(wave_url(self.root, wave, self.folder)), 1)

    def failures(self) -> Iterator[Record]:
        return (record for record in self if is_failure(record))


class Times(NamedTuple):
    """What the waves of a run have taken, added up."""

    waves: int
    wall_s: float
    worker_s: float  # wall_s times the processes that worked
    busy_s: float  # of their models
    stages: dict[str, float]  # seconds of all clips
    loads: dict[str, int]  # worker -> times it has loaded a model


def times_of(heads: Iterable[Record]) -> Times:
    """The sum over waves with these heads; a head without times is left out."""
    told = [head for head in heads if "times" in head]
    wall_s, worker_s, busy_s = (sum(head["times"][name] for head in told) for name in ("wall_s", "worker_s", "busy_s"))
    stages, loads = dict[str, float](), dict[str, int]()
    for head in told:
        for stage, seconds in head["times"]["stages"].items():
            stages[stage] = stages.get(stage, 0.0) + seconds
        for worker, times in head.get("loads", {}).items():
            loads[worker] = max(loads.get(worker, 0), times)
    return Times(len(told), wall_s, worker_s, busy_s, stages, loads)


Tried = dict[tuple[str, int], Record]
"""(source_id, window) -> the row of the error table."""


def tried_before(root: str) -> Tried:
    """Clips of this root that failed and have not changed since: a changed file has another source_id. Those that the
    screen left out are none: its limits may have changed, and to compare them again costs nothing."""
    rows = (row for row in read_table(root, "errors") if row["source_id"] and row["kind"] != "screened")
    return {(row["source_id"], row["window"]): row for row in rows}


def parked(record: Record, tried: Tried, park_after: int) -> Record:
    """The record with its earlier runs' attempts; after `park_after` of them, its last failure, marked parked."""
    row = tried.get((record["source_id"], record["window"]))
    if row is None:
        return record
    if row["attempts"] < park_after:
        return record | {"attempts_before": row["attempts"]}
    return {name: record[name] for name in ("source_id", "clip", "name", "window")} | {
        **{name: row[name] for name in ("stage", "error", "kind", "message", "attempts", "retryable")},
        "parked": True,
        "timings": [],
    }
