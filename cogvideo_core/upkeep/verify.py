"""A run's whole root: whether every byte is intact, the space it takes, what can be removed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

from cogvideo_core.dataset.rows import edit_rows, folder_of, in_folder
from cogvideo_core.dataset.tables import committed_rows, earlier_edits, read_rows
from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.storage.keys import Stage, is_key, unit_folder
from cogvideo_core.storage.ledger import Commit, Ledger, Verify
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import unsigned

Keep = Literal["all", "until_edited", "none"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Finding(NamedTuple):
    """Something about one object; `name` is relative to the root."""

    name: str
    what: str
    size: int = 0


def open_root(root: str) -> Ledger:
    """The ledger of a root. Raises BadSpec if nothing was ever stored there, as with a typo."""
    ledger = Ledger(root)
    if not any(ledger.objects.names(stage) for stage in STAGES):
        raise BadSpec(f"field root: nothing is stored under {unsigned(root)!r}; give the root of a run")
    return ledger


def verify_tree(root: str, verify: Verify = "full") -> Iterator[Finding]:
    """What is wrong under the root: units whose commit or objects are not as committed, units without a commit, and
    collected videos that are not the committed ones. Changes nothing."""
    ledger = open_root(root)
    for stage in STAGES:
        for key in ledger.keys(stage):
            yield from _unit_problems(ledger, stage, key, verify)
    if ledger.objects.names("dataset"):
        yield from _collected_problems(root, ledger, verify)


def _unit_problems(ledger: Ledger, stage: Stage, key: str, verify: Verify) -> Iterator[Finding]:
    name = f"{unit_folder(stage, key)}/commit.json"
    try:
        commit = ledger.read(stage, key)
    except FileNotFoundError:
        if ledger.objects.names(unit_folder(stage, key)):  # an empty folder is what a removed unit leaves on a disk
            yield Finding(name, "is missing: its work was never finished, or is to be done again")
        return
    except ValueError as error:
        yield Finding(name, str(error))
        return
    for file, problem in ledger.check(commit, verify).items():
        yield Finding(ledger.object_name(commit, file), problem)


def _collected_problems(root: str, ledger: Ledger, verify: Verify) -> Iterator[Finding]:
    rows = [*earlier_edits(root), *committed_rows(ledger)]
    whole = [row for row in rows if _stored(ledger, "edits", row["edit_key"])]
    for lost in {row["edit_key"] for row in rows} - {row["edit_key"] for row in whole}:
        yield Finding(unit_folder("edits", lost), "is in the tables, and not committed")
    yield from _lost_clips(root, ledger, {row["source_id"] for row in whole})
    wanted: dict[str, tuple[Stage, str, str]] = {}
    rejected = {row["edit_key"] for row in rows if row.get("kept") is False}
    spread = any(row.get("file_name", "").count("/") > 1 for row in rows)  # as the last collection has left it
    for row in edit_rows(row for row in whole if row["edit_key"] not in rejected):
        row = in_folder(row, folder_of(row)) if spread else row
        wanted[row["source_file_name"]] = "sources", row["source_key"], "source.mp4"
        wanted[row["file_name"]] = "edits", row["edit_key"], "edit.mp4"
    for name, (stage, key, file) in sorted(wanted.items()):
        commit = _stored(ledger, stage, key)
        if commit and (problem := ledger.differs(commit, file, f"dataset/{name}", verify)):
            yield Finding(f"dataset/{name}", problem)


def _lost_clips(root: str, ledger: Ledger, edited: set[str]) -> Iterator[Finding]:
    """Lost commits of clips, found by the plan: their units have no objects."""
    for clip in read_rows(root, "plan/clips.parquet"):
        name = f"{unit_folder('clips', fingerprint({'source_id': clip['source_id']}))}/commit.json"
        if clip["stamp"] and clip["source_id"] in edited and not ledger.objects.exists(name):
            yield Finding(name, "is missing: the clip will be read again")


def _stored(ledger: Ledger, stage: Stage, key: str) -> Commit | None:
    try:
        return ledger.read(stage, key)
    except (FileNotFoundError, ValueError):
        return None


def usage(ledger: Ledger) -> dict[str, tuple[int, int]]:
    """(objects, bytes) of each folder directly below the root, stages first; "" is for objects in the root itself."""
    counts, sizes = Counter[str](), Counter[str]()
    for name, info in ledger.objects.walk(""):
        top = name.partition("/")[0] if "/" in name else ""
        counts[top] += 1
        sizes[top] += int(info["size"] or 0)
    order = [*(stage for stage in STAGES if stage in counts), *sorted(set(counts) - set(STAGES))]
    return {top: (counts[top], sizes[top]) for top in order}


def garbage(ledger: Ledger, keep: Keep, older: timedelta, quarantine: bool = False) -> Iterator[Finding]:
    """Objects that nothing needs and that are older than `older`: attempts without a commit, trajectories past their
    retention, what is left of unfinished edits, and on demand what was set aside.

    Younger objects may belong to a writer that is at work. A trajectory is past `until_edited` once an edit was made
    from it and no edit of that batch is missing.
    """
    before = datetime.now(UTC) - older
    edited = _edited_trajectories(ledger) if keep == "until_edited" else set()
    for stage in STAGES:
        commits = {commit.key: commit for commit in ledger.units(stage)}
        listed = list(ledger.objects.walk(stage))
        # a commit that can't be trusted is left to verification: its objects are not touched
        bad = {key for name, _ in listed if name.endswith("/commit.json") and (key := _key(name)) not in commits}
        for name, info in listed:
            if (key := _key(name)) in bad or not is_key(key) or not _stale(ledger, name, before):
                continue
            if why := _why(stage, name, commits.get(key), keep == "none" or key in edited):
                yield Finding(name, why, int(info["size"] or 0))
    for name, info in ledger.objects.walk("quarantine") if quarantine else ():
        if _stale(ledger, name, before):
            yield Finding(name, "was set aside", int(info["size"] or 0))


def _key(name: str) -> str:
    return name.split("/")[2] if name.count("/") > 2 else ""


def _why(stage: Stage, name: str, commit: Commit | None, expired: bool) -> str:
    if stage == "trajectories" and commit is not None and expired:
        return "trajectory past its retention"
    if stage == "progress" and commit is not None:
        return "progress of an edit that nobody makes"
    if name.endswith("/commit.json"):
        return ""
    folder = name.split("/", 3)[3]
    live = commit is not None and folder in {stored.object for stored in commit.files.values()}
    return "" if live else "attempt without a commit"


def _edited_trajectories(ledger: Ledger) -> set[str]:
    commits = list(ledger.units("edits"))
    done = {commit.key for commit in commits}
    finished = (commit.spec for commit in commits if done.issuperset(commit.record.get("batch", [])))
    return {key for spec in finished for key in _trajectories_of(spec)}


def _trajectories_of(edit: Mapping[str, Any]) -> list[str]:
    """The trajectories that an edit of this spec was made from: one for each window."""
    if "whole" not in edit:
        return [edit["trajectory"]]
    return [key for scene in edit["whole"]["scenes"] for key in scene["trajectories"]]


def _stale(ledger: Ledger, name: str, before: datetime) -> bool:
    with storing(name, (FileNotFoundError,)):
        modified = ledger.objects.fs.modified(ledger.objects.path(name))
    return (modified if modified.tzinfo else modified.replace(tzinfo=UTC)) <= before


def remove(ledger: Ledger, findings: Iterable[Finding]) -> None:
    """Removes what `garbage` found; commits go first, so that none is left without its objects."""
    for finding in sorted(findings, key=lambda found: not found.name.endswith("/commit.json")):
        ledger.objects.remove(finding.name)


def retention(ledger: Ledger) -> Keep:
    """`keep_trajectories` of the root's last run; "all" where none is known."""
    try:
        settings: Any = json.loads(ledger.objects.read("plan/settings.json"))
        keep = settings["output"]["keep_trajectories"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "all"
    return keep if keep in get_args(Keep) else "all"
