"""Rows of edits as the sections and tiles of the gallery, one clip after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple
from urllib.parse import quote

from cogvideo_core.dataset.rows import OWN, Row
from cogvideo_core.media.outlines import safe_outline

MAX_OWN = 300  # characters of the user's own columns that are shown and searched, of an edit
MAX_EDITS = 60  # of one section: a clip with more of them is continued in another
MAX_MASK = 60  # characters of a mask's text
FOLDER = "dataset/"  # where index.html finds the file names of the rows
FIGURES = (  # word, score, how it is written, what it means
    (
        "colour kept",
        "delta_e",
        "ΔE {:.2g}",
        "colour shift of what should have stayed, mean CIEDE2000; below 2 is hardly seen",
    ),
    ("sharpness", "sharpness", "{:.0%}", "of the source's, after the VAE"),
    ("still", "flicker", "±{:.2g}", "change from frame to frame that the source does not show, in levels of 255"),
)


class Tile(NamedTuple):
    """One edit: what the page draws, and what it is found and ordered by."""

    shown: Row
    prompt: str
    recipe: str
    own: str  # the user's own columns
    groups: str  # verdict, and kept or left-out, as words
    key: str
    values: dict[str, float]  # rank, scores and confidence, those that there are


class Section(NamedTuple):
    """A clip's window beside its edits, at most MAX_EDITS of them."""

    clip: str
    prompt: str
    shown: Row
    tiles: list[Tile]
    continued: bool  # whether an earlier section shows the same clip and window


def sections_of(rows: Iterable[Row]) -> Iterator[Section]:
    """Sections of rows in the tables' order, made as the rows come; at most MAX_EDITS rows are held.

    rows: file_name and source_file_name (relative to `dataset/`), clip, window, source_prompt, target_prompt, recipe,
        seed, height and width in pixels; numbers in score_* columns are shown.
    """
    for _, group in groupby(rows, key=lambda row: (row["clip"], *_part(row), row["window"])):
        seen: set[str] = set()
        while batch := list(islice(group, MAX_EDITS)):
            sources = dict.fromkeys(row["source_file_name"] for row in batch)  # equal names, but two files
            for source in sources:
                yield _section([row for row in batch if row["source_file_name"] == source], source in seen)
            seen.update(sources)


def _section(rows: list[Row], continued: bool) -> Section:
    first = next((row for row in rows if row.get("kept", True)), rows[0])
    masks = list(dict.fromkeys(filter(None, (safe_outline(row.get("mask_outline")) for row in rows))))
    tiles = _side_by_side([_tile(row, masks) for row in rows])
    shown = {
        "heading": f"{_heading(first)}{', continued' if continued else ''}",
        "prompt": first["source_prompt"],
        "url": _place(first, "source_object", "source_file_name"),
        "width": first["width"],
        "height": first["height"],
        "edits": [tile.shown for tile in tiles],
    }
    shown |= {"masks": masks} if masks else {}  # once, for edits share them
    return Section(first["clip"], first["source_prompt"], shown, tiles, continued)


def _heading(row: Row) -> str:
    start, end = _part(row)
    part = f", {start:g}-{f'{end:g}' if end else 'end'} s" if start or end else ""
    window = f", window {row['window']}" if row["window"] else ""
    return f"{row['clip']}{part}{window}"


def _part(row: Row) -> tuple[float, float]:
    """Start and end in seconds of the part of the clip that was edited, 0 and 0 for all of it."""
    return row.get("start_s") or 0, row.get("end_s") or 0


def _side_by_side(tiles: list[Tile]) -> list[Tile]:
    """Candidates of a prompt beside each other, the best first."""
    prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(tile.prompt for tile in tiles))}
    return sorted(tiles, key=lambda tile: (prompts[tile.prompt], tile.values["rank"]))


def _tile(row: Row, masks: Sequence[str]) -> Tile:
    scores, verdict, kept, own = _scores(row), row.get("verdict", ""), row.get("kept", True), _own(row)
    shown = {
        "url": "" if row.get("state") == "stopped" else _place(row, "edit_object", "file_name"),
        "key": row.get("edit_key", ""),
        "said": row.get("reviewed", ""),
        "kept": kept,
        "rejected": verdict == "rejected",
        "prompt": row["target_prompt"],
        "notes": _notes(row),
        "verdict": _told(row),
        "figures": [text.format(scores[name]) if name in scores else "" for _, name, text, _ in FIGURES],
        "scores": ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in scores.items()),
        "own": own,
    }
    shown |= {"mask": masks.index(row["mask_outline"])} if row.get("mask_outline") in masks else {}
    groups = f"{verdict} {'kept' if kept else 'left-out'}".strip()
    values = {"rank": row.get("rank", 1)} | {name: round(value, 4) for name, value in scores.items()}
    return Tile(shown, row["target_prompt"], row["recipe"], own, groups, row.get("edit_key", ""), values)


def _own(row: Row) -> str:
    """The user's own columns that have a value, in words."""
    text = ", ".join(f"{name} {row[name]}" for name in row.get(OWN, ()) if row[name] not in (None, ""))
    return text if len(text) <= MAX_OWN else f"{text[: MAX_OWN - 1]}…"


def _scores(row: Row) -> dict[str, float]:
    found = {name.removeprefix("score_"): value for name, value in row.items() if name.startswith("score_")}
    found |= {"confidence": row.get("confidence")}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _notes(row: Row) -> str:
    strength = row.get("strength", 1.0)
    mask = row.get("mask") or ""
    masked = f", mask: {mask if len(mask) <= MAX_MASK else mask[: MAX_MASK - 1] + '…'}" if mask else ""
    rivals = f", rank {row['rank']} of {row['candidates']}" if row.get("candidates", 1) > 1 else ""
    return f"{row['recipe']}, seed {row['seed']}{f', strength {strength:g}' if strength != 1 else ''}{rivals}{masked}"


def _told(row: Mapping[str, Any]) -> str:
    """The verdict in words, and who gave it."""
    verdict = row.get("verdict", "")
    text = {"rejected": f"Rejected: {row.get('rejected_because', '')}", "accepted": "Accepted"}.get(verdict, "")
    said = {"keep": "by a reviewer", "prefer": "by a reviewer, who prefers it"}.get(row.get("reviewed", ""), "")
    surpassed = "not kept: another candidate is better"
    beaten = surpassed if verdict != "rejected" and not row.get("kept", True) else ""
    return ", ".join(part for part in (text, said, beaten) if part)


def _place(row: Row, stored: str, collected: str) -> str:
    """Where the page finds a video: in dataset/, or, of an edit that is not kept, where it is stored below the root."""
    if row.get("kept", True) or "://" in str(row.get(stored, "://")):
        return quote(FOLDER + row[collected], safe="/")
    return quote(str(row[stored]), safe="/")
