"""index.html: every source beside its edits. Also escapes untrusted text for markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, Template

from cogvideo_core.storage.uris import printable

MAX_CLIPS = 500
MAX_FAILURES = 500
SMALL_PX = 160
FAILURE_FIELDS = ("clip", "stage", "error", "message")
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
FOLDER = "dataset/"  # where index.html finds the file names of the rows
# Written as entities, these have no meaning in markdown or HTML. "://" and "@" would become links.
MARKUP = re.compile(r"[&<>|`*\[\]\\~#$@]|:(?=//)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def render_gallery(edits: list[dict[str, Any]], failures: list[dict[str, Any]], about: Mapping[str, Any]) -> str:
    """The page as text, self-contained except for the videos, which are in `dataset/` beside it.

    edits: rows with file_name and source_file_name (relative to `dataset/`), clip, window, source_prompt,
        target_prompt, recipe, seed, height and width in pixels; numbers in score_* columns are shown. Rows of one
        clip and window become one section, in the order of their first row; 500 sections at most.
    failures: rows with clip, stage, error, message. about: `title`, and anything worth showing as settings.
    """
    sections = _sections(edits)
    page = _template().render(
        title=str(about.get("title") or "Edited videos"),
        sections=list(sections.values())[:MAX_CLIPS],
        scores=sorted({name for section in sections.values() for edit in section["edits"] for name in edit["names"]}),
        ranked=any(edit["rank"] > 1 for section in sections.values() for edit in section["edits"]),
        verdicts=any(edit["verdict"] for section in sections.values() for edit in section["edits"]),
        hidden=max(0, len(sections) - MAX_CLIPS),
        counts=f"{_count(len(sections), 'clip')}, {_count(len(edits), 'edit')}, {_count(len(failures), 'failure')}",
        failures=[{name: str(row.get(name, "")) for name in FAILURE_FIELDS} for row in failures[:MAX_FAILURES]],
        more_failures=max(0, len(failures) - MAX_FAILURES),
        settings=settings({key: value for key, value in about.items() if key != "title"}),
    )
    return printable(page)


def settings(about: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs, in their order."""
    pairs: list[tuple[str, str]] = []
    for key, value in about.items():
        if isinstance(value, Mapping):
            pairs += settings(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", str(value)))
    return pairs


def escape_markdown(value: object, limit: int = 200) -> str:
    """One line that markdown shows literally, in table cells too; cut to `limit` characters, then escaped."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return MARKUP.sub(lambda found: f"&#{ord(found.group())};", text)


def markdown_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A markdown table, every cell escaped; a missing or None value is an empty cell."""
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else escape_markdown(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sections(edits: Iterable[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, Any]]:
    sections: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in edits:
        key = (row["clip"], row["window"], row["source_file_name"])
        if key not in sections:
            sections[key] = _section(row)
        if row.get("kept", True):
            sections[key]["url"] = _url(row["source_file_name"])
        sections[key]["edits"].append(_tile(row))
    for section in sections.values():  # candidates of a prompt side by side, the best first
        prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(e["prompt"] for e in section["edits"]))}
        section["edits"].sort(key=lambda edit: (prompts[edit["prompt"]], edit["rank"]))
    return sections


def _section(row: Mapping[str, Any]) -> dict[str, Any]:
    start, end = row.get("start_s") or 0, row.get("end_s") or 0
    part = f", {start:g}-{f'{end:g}' if end else 'end'} s" if start or end else ""
    window = f", window {row['window']}" if row["window"] else ""
    return {
        "heading": f"{row['clip']}{part}{window}",
        "prompt": row["source_prompt"],
        "url": _place(row, "source_object", "source_file_name"),
        "width": row["width"],
        "height": row["height"],
        "small": row["width"] < SMALL_PX,
        "text": f"{row['clip']} {row['source_prompt']}".lower(),
        "edits": [],
    }


def _tile(row: Mapping[str, Any]) -> dict[str, Any]:
    strength, verdict = row.get("strength", 1.0), row.get("verdict", "")
    scores = {key.removeprefix("score_"): row[key] for key in row if key.startswith("score_") and row[key] is not None}
    scores |= {"confidence": row["confidence"]} if row.get("confidence") is not None else {}
    stopped, kept = row.get("state") == "stopped", row.get("kept", True)
    rivals = f", rank {row['rank']} of {row['candidates']}" if row.get("candidates", 1) > 1 else ""
    return {
        "url": "" if stopped else _place(row, "edit_object", "file_name"),
        "key": row.get("edit_key", ""),
        "said": row.get("reviewed", ""),
        "kept": kept,
        "rank": row.get("rank", 1),
        "rejected": verdict == "rejected",
        "verdict": _told(row),
        "prompt": row["target_prompt"],
        "notes": f"{row['recipe']}, seed {row['seed']}{f', strength {strength:g}' if strength != 1 else ''}{rivals}",
        "figures": [(word, text.format(scores[name]), about) for word, name, text, about in FIGURES if name in scores],
        "scores": ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in scores.items()),
        "names": list(scores),
        "measured": json.dumps({"rank": row.get("rank", 1)} | {name: round(scores[name], 4) for name in scores}),
        "text": f"{row['target_prompt']} {row['recipe']} {verdict} {'kept' if kept else 'left-out'}".lower(),
        "groups": f"{verdict} {'kept' if kept else 'out'}",
    }


def _told(row: Mapping[str, Any]) -> str:
    """The verdict in words, and who gave it."""
    verdict = row.get("verdict", "")
    text = {"rejected": f"Rejected: {row.get('rejected_because', '')}", "accepted": "Accepted"}.get(verdict, "")
    said = {"keep": "by a reviewer", "prefer": "by a reviewer, who prefers it"}.get(row.get("reviewed", ""), "")
    surpassed = "not kept: another candidate is better"
    beaten = surpassed if verdict != "rejected" and not row.get("kept", True) else ""
    return ", ".join(part for part in (text, said, beaten) if part).removeprefix(", ")


def _place(row: Mapping[str, Any], stored: str, collected: str) -> str:
    """Where the page finds a video: in dataset/, or, of an edit that is not kept, where it is stored below the root."""
    if row.get("kept", True) or "://" in str(row.get(stored, "://")):
        return _url(row[collected])
    return quote(str(row[stored]), safe="/")


def _url(file_name: str) -> str:
    return quote(FOLDER + file_name, safe="/")


@cache
def _template() -> Template:
    source = resources.files("cogvideo_core.dataset").joinpath("gallery.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)
