"""Lays the edits of a run out as a benchmark's evaluator reads them; what is laid out already is not written again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cogvideo_core.benchmarks.cases import Case, Form
from cogvideo_core.benchmarks.frames import resized, target_size, write_frames
from cogvideo_core.benchmarks.prepare import Prepared, replace
from cogvideo_core.dataset.outcomes import Records
from cogvideo_core.dataset.tables import iter_table
from cogvideo_core.errors import BadSpec, ClipError, EditError
from cogvideo_core.planning.tables import read_planned
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.stages.failures import is_failure
from cogvideo_core.stages.judge import stored_frames
from cogvideo_core.storage.keys import Stage
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.uris import plain_name, printable

RESULTS, SOURCES, LAID = "results", "sources", "laid_out.json"
SOURCE_FORM = Form("png")
LAST = 1 << 30  # a rank behind all others
Row = dict[str, Any]
Wish = tuple[str, str, str]
"""clip, source prompt, target prompt"""


class LaidOut(NamedTuple):
    """What lies in results: case id -> the row of its edit; case id -> why there is none."""

    rows: dict[str, Row]
    failed: dict[str, str]
    written: int


class Run(NamedTuple):
    """The edits of the last run of a root by what they were asked for, and why clips failed."""

    edits: dict[Wish, list[Row]]
    failures: dict[str, str]


def lay_out(prepared: Prepared, root: str, step: Callable[[], None] = lambda: None) -> LaidOut:
    """Writes the edit of each case, and its source where evaluator or scores want that, under `prepared.place`.

    Edits of another run that lie there and are not those of the last one are removed. `step` is called for each
    case. Raises BadSpec, StorageError.
    """
    ledger, run, ranks = Ledger(root), run_of(root), _ranks(root)
    rows, failed, written = dict[str, Row](), dict[str, str](), 0
    for case in prepared.cases:
        if found := run.edits.get(_wish(case)):
            rows[case.id] = min(found, key=lambda row: ranks.get(row["edit_key"], LAST))
        else:
            failed[case.id] = run.failures.get(printable(case.clip), "the run has made no such edit")
    there, sources = _start(prepared, rows), dict[Path, str]()
    for case in prepared.cases:
        if case.id in rows and case.id not in there:
            try:
                _lay(prepared, ledger, case, rows[case.id], sources)
                written += 1
            except ClipError as error:
                failed[case.id] = str(error)
                del rows[case.id]
        step()
    _write_lists(prepared, rows)
    return LaidOut(rows, failed, written)


def _start(prepared: Prepared, rows: dict[str, Row]) -> set[str]:
    """The cases whose edits lie there whole. Others are struck off the list before anything is written, and removed:
    whatever ends this process, the list names no edit that does not lie there."""
    before = _laid(prepared.place)
    there = {case.id for case in prepared.cases if _is_there(prepared, case, rows.get(case.id), before)}
    replace(prepared.place / LAID, _listed({name: before[name] for name in there}))
    results = (prepared.place / RESULTS).resolve()
    for name in before.keys() - there:
        gone = (results / str(before[name].get("place", ""))).resolve()
        if gone != results and gone.is_relative_to(results):
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
    return there


def _is_there(prepared: Prepared, case: Case, row: Row | None, before: dict[str, Row]) -> bool:
    if row is None or before.get(case.id, {}).get("edit_key") != row["edit_key"]:
        return False
    targets = (prepared.place / RESULTS / case.place, source_path(prepared.place, case))
    return all(target is None or _whole(target, row["frames"]) for target in targets)


def run_of(root: str) -> Run:
    """The edits of the root's last run; those that retry-failed has made since count, if they are of its recipes.

    Raises BadSpec where there was no run.
    """
    try:
        return _run_of(root)
    except (ValueError, KeyError, TypeError) as error:
        raise BadSpec(
            f"field root: the records of {root!r} can't be read ({error}); run the benchmark again"
        ) from error


def _run_of(root: str) -> Run:
    run, kinds = Run({}, {}), set[tuple[Any, ...]]()
    for row in _rows(_records(root, "plan"), run):
        kinds.add(_kind(row))
        run.edits.setdefault(_wish_of(row), []).append(row)
    if not (run.edits or run.failures):
        raise BadSpec(f"field root: {root!r} has no finished run; run the benchmark first")
    for row in _rows(_records(root, "plan/retry"), Run({}, {})):
        if _kind(row) in kinds:
            run.edits.setdefault(_wish_of(row), [row])
    return run


def _records(root: str, folder: str) -> Iterable[Row]:
    try:
        return Records(root, read_planned(root, folder)["waves"], folder)
    except (EditError, OSError, KeyError, ValueError):
        return ()


def _rows(records: Iterable[Row], run: Run) -> Iterator[Row]:
    for record in records:
        if is_failure(record):
            run.failures.setdefault(printable(str(record.get("clip", ""))), str(record.get("message", "")))
        yield from (edit for edit in record.get("edits", []) if edit.get("state") == "done")


def _kind(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model_fingerprint", "recipe_fingerprint", "frames", "height", "width"))


def _wish(case: Case) -> Wish:
    return printable(case.clip), case.source_prompt, case.target_prompt


def _wish_of(row: Row) -> Wish:
    return printable(row["clip"]), row["source_prompt"], row["target_prompt"]


def _ranks(root: str) -> dict[str, int]:
    """Of edits that compete for one prompt: the judge's best comes first."""
    try:
        return {row["edit_key"]: row["rank"] or LAST for row in iter_table(root, "edits", ["edit_key", "rank"])}
    except EditError:
        return {}


def _lay(prepared: Prepared, ledger: Ledger, case: Case, row: Row, sources: dict[Path, str]) -> None:
    """Lays one edit out, and its source where that is wanted and not among `sources`, which are written already.

    Raises ClipError where one of them is gone.
    """
    form, results = prepared.benchmark.form, prepared.place / RESULTS
    size = target_size(case.clip, form, (row["height"], row["width"]))
    source, key = source_path(prepared.place, case), row["source_key"]
    if source is not None and sources.get(source) != key:
        frames = _stored(ledger, case, row, "sources", "source.mp4")
        own = form if source.is_relative_to(results) else SOURCE_FORM
        write_frames(resized(frames, size), source, own, row["fps"])
        sources[source] = key
    frames = _stored(ledger, case, row, "edits", "edit.mp4")
    write_frames(resized(frames, size), results / case.place, form, row["fps"])


def _stored(ledger: Ledger, case: Case, row: Row, stage: Stage, name: str) -> np.ndarray:
    commit = ledger.find(stage, row[f"{stage.rstrip('s')}_key"])
    if commit is None:
        raise ClipError(case.clip, f"its {name} of edit {case.id!r} is gone", "run the benchmark again")
    return stored_frames(ledger, commit, name, row)


def _whole(target: Path, frames: int) -> bool:
    """Whether a video, or a folder with so many pictures, is there."""
    return sum(1 for _ in target.iterdir()) == frames if target.is_dir() else target.is_file()


def source_path(place: Path, case: Case) -> Path | None:
    """Where the clip as it was edited is laid out: among the results where the evaluator wants it, beside them where
    the clip is a video, whose frames are not all in an edit; None where the benchmark's own frames serve."""
    if case.source_place:
        return place / RESULTS / case.source_place
    if Path(case.clip).is_dir():
        return None
    return place / SOURCES / f"{plain_name(Path(case.clip).stem)}-{fingerprint([case.clip])[:12]}"


def _laid(place: Path) -> dict[str, Row]:
    try:
        found = json.loads((place / LAID).read_bytes())
        return {str(name): dict(row) for name, row in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write_lists(prepared: Prepared, rows: dict[str, Row]) -> None:
    """What is laid out, and the evaluator's own lists of it."""
    places = {case.id: case.place for case in prepared.cases}
    laid = {name: {"edit_key": row["edit_key"], "place": places[name]} for name, row in rows.items()}
    replace(prepared.place / LAID, _listed(laid))
    if rows:
        for name, data in prepared.benchmark.index(prepared.folder, set(rows)).items():
            replace(prepared.place / RESULTS / name, data)


def _listed(laid: dict[str, Row]) -> bytes:
    return json.dumps(laid, indent=1, sort_keys=True).encode()
