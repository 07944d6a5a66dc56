"""What a person said of edits, and the calibration that follows from it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cogvideo_core.dataset.tables import read_table
from cogvideo_core.errors import BadSpec
from cogvideo_core.judging import policy
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.stages.judge import CALIBRATION
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store

YES, NO = {"accept", "accepted", "keep", "good", "yes", "true", "1"}, {"reject", "rejected", "bad", "no", "false", "0"}
NAMES = ("edit_key", "file_name", "edit")
MOST_BYTES = 50_000_000


def read_labels(path: str) -> dict[str, bool]:
    """Edit (key, or file name in dataset/) -> accepted, of a JSONL or CSV file. The last word on an edit counts.

    Raises BadSpec for a file or line that can't be used, which names the line.
    """
    fs, place = open_store(path)
    with storing(path):
        if not fs.exists(place):
            raise BadSpec(f"field labels: {path!r} does not exist; give a JSONL or CSV file with edit_key and label")
        raw = fs.cat_file(place, 0, MOST_BYTES)
    text = raw.decode("utf-8-sig", "replace")
    found: dict[str, bool] = {}
    for number, row in enumerate(_rows(path, text), 1):
        edit = next((str(row[name]).strip() for name in NAMES if row.get(name)), "")
        word = str(row.get("label", "")).strip().lower()
        if not edit or word not in YES | NO:
            raise BadSpec(
                f"field labels: row {number} of {path!r} has {'no edit_key' if not edit else f'label {word[:40]!r}'}; "
                "write edit_key, and accept or reject as label"
            )
        found[edit] = word in YES
    return found


def _rows(path: str, text: str) -> list[Mapping[str, Any]]:
    if not path.lower().endswith((".jsonl", ".json", ".ndjson")):
        return list(csv.DictReader(io.StringIO(text)))
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BadSpec(f"field labels: line {number} of {path!r} is no JSON object; write one object a line")
        rows.append(row)
    return rows


def calibrate(root: str, labels: Mapping[str, bool]) -> tuple[policy.Calibration, list[list[str]]]:
    """The calibration of a root's judged edits by these labels, stored under the root; and [what, figure] pairs.

    Raises BadSpec where a label names no edit of the root, an edit is not judged, or there are too few.
    """
    rows = read_table(root, "edits")
    known = {row["edit_key"]: row for row in rows} | {row["file_name"]: row for row in rows}
    if unknown := [edit for edit in labels if edit not in known]:
        raise BadSpec(
            f"field labels: {unknown[0][:80]!r} is no edit of {root!r}"
            f"{f', and {len(unknown) - 1} more' if len(unknown) > 1 else ''}; take edit_key from tables/edits.parquet"
        )
    scores = [_scores(known[edit]) for edit in labels]
    if unjudged := sum("text_similarity" not in row for row in scores):
        raise BadSpec(f"field labels: {unjudged} of these edits are not judged; run cogvideo-edit judge {root} first")
    good = list(labels.values())
    made = replace(policy.fit(scores, good), early=_early(root, [known[edit]["edit_key"] for edit in labels], good))
    text = json.dumps(made.as_json(), indent=2) + "\n"
    fs, path = open_store(f"{root}/{CALIBRATION}")
    with storing(CALIBRATION):
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(path, text.encode())
    told = [["labels", f"{sum(good)} accepted, {len(good) - sum(good)} rejected"], *_figures(made, scores, good)]
    return made, told + ([["early looks", ", ".join(made.early)]] if made.early else [])


def _early(root: str, keys: list[str], good: list[bool]) -> dict[str, policy.Calibration]:
    """The early looks, where these edits' clean estimates were scored (`judge.early_stop`=measure): those that saw
    enough edits of both kinds."""
    held: dict[str, dict[str, Any]] = {}
    for commit in Ledger(root).units("judgements"):
        if "early" in commit.record:
            held[str(commit.spec["edit"])] = commit.record["early"]
    shares = sorted({share for looks in held.values() for share in looks}, key=float)
    looks = {share: [held.get(key, {}).get(share) for key in keys] for share in shares}

    def enough(rows: list[Any]) -> bool:
        seen = [right for row, right in zip(rows, good, strict=True) if row]
        return min(sum(seen), len(seen) - sum(seen)) >= policy.LEAST

    return policy.fit_early({share: rows for share, rows in looks.items() if enough(rows)}, good)


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    named = {name.removeprefix("score_"): value for name, value in row.items() if name.startswith("score_")}
    return {name: value for name, value in named.items() if value is not None}


def _figures(made: policy.Calibration, scores: list[dict[str, float]], good: list[bool]) -> list[list[str]]:
    found = []
    for preset in policy.PRECISION:
        spec = JudgeSpec(text="shapes", preset=preset)
        passed = [policy.decide(row, spec, made).verdict == "accepted" for row in scores]
        hits = sum(keep and right for keep, right in zip(passed, good, strict=True))
        found += [
            [f"{preset}: precision", share_told(hits, sum(passed))],
            [f"{preset}: recall", share_told(hits, sum(good))],
            [f"{preset}: kept", share_told(sum(passed), len(passed))],
        ]
    return found


def share_told(hits: int, of: int) -> str:
    """ "0.93 (0.81 to 0.98), 28 of 30": a share with its 95 % interval. Source: Wilson 1927."""
    if not of:
        return "none"
    z, p = 1.96, hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = ((middle + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return f"{p:.2f} ({max(low, 0):.2f} to {min(high, 1):.2f}), {hits} of {of}"
