"""Checked rows of a manifest or prompts file, read as a stream on any allowed store; `READERS` has the kinds.

A row that can't be used is yielded as the error it raised; a file that can't be used raises BadManifest.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cogvideo_core.errors import BadManifest, ClipError, EditError
from cogvideo_core.inputs.columns import ALIASES, INSIDE, OWN, Inside, Pairs, Values
from cogvideo_core.inputs.lines import lines
from cogvideo_core.inputs.own_columns import own_text
from cogvideo_core.inputs.readers import csv_rows, json_rows, jsonl_rows
from cogvideo_core.inputs.tables import arrow_rows, parquet_rows
from cogvideo_core.inputs.tars import tar_rows
from cogvideo_core.storage.uris import has_control, path_part, printable

READERS = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    ".tar": tar_rows,
}
MAX_PROMPT = 2_000  # characters
MAX_PROMPTS = 1_000  # of one clip
BREAKS = re.compile(r"\s*[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # line breaks and tabs, with the spaces around them


class Row(NamedTuple):
    """One checked line of a manifest; the addresses of clip and first frame are not resolved yet."""

    clip: str
    source_prompt: str
    target_prompts: tuple[str, ...]
    first_frame_uri: str = ""
    own: tuple[str, ...] = ()  # the user's own columns as JSON, one for each target prompt
    fps: str = ""  # of a folder of frames, as written
    inside: Inside | None = None  # where the clip lies, if in another file


class BadRow(NamedTuple):
    """A line that can't be used; `clip` is its clip, or its place in the file."""

    clip: str
    error: EditError


def is_manifest(uri: str) -> bool:
    return ending(uri) in READERS


def ending(uri: str) -> str:
    return posixpath.splitext(path_part(uri))[1].lower()


def manifest_rows(uri: str, extra: Sequence[str] = (), need_targets: bool = True) -> Iterator[Row | BadRow]:
    """Checked rows of a manifest; `extra` target prompts are added to each.

    Adjacent rows that differ in target prompts alone become one, their target prompts in order, without duplicates.
    Rows that are not adjacent are not merged: that would need all rows in memory. Raises BadManifest while iterating.
    """
    held: Row | None = None
    for place, fields in READERS[ending(uri)](uri):
        row = checked(place, fields, extra, need_targets)
        if held and isinstance(row, Row) and _same(held, row):
            row = _merged(held, row)
        elif held:
            yield held
        held = row if isinstance(row, Row) else None
        if isinstance(row, BadRow):
            yield row
    if held:
        yield held


def _merged(a: Row, b: Row) -> Row:
    """Both rows' target prompts in order, without duplicates, each with the own columns of its first row."""
    owns = dict(zip(b.target_prompts, b.own, strict=True)) | dict(zip(a.target_prompts, a.own, strict=True))
    prompts = tuple(dict.fromkeys(a.target_prompts + b.target_prompts))
    return b._replace(target_prompts=prompts, own=tuple(owns[prompt] for prompt in prompts))


def text_prompts(uri: str) -> list[str]:
    """Target prompts of a text file, one a line; blank lines and lines that start with # are left out.

    Raises BadManifest.
    """
    prompts: dict[str, None] = {}
    for place, line in lines(uri):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                prompts[_prompt(place, "prompt", line)] = None
            except ClipError as error:
                raise BadManifest(f"prompts file {uri!r}: {error}") from error
        if len(prompts) > MAX_PROMPTS:
            raise BadManifest(f"prompts file {uri!r} has more than {MAX_PROMPTS} prompts; split it")
    if not prompts:
        raise BadManifest(f"prompts file {uri!r} holds no prompt; write one target prompt a line, in UTF-8")
    return list(prompts)


def _same(a: Row, b: Row) -> bool:
    room = len(a.target_prompts) + len(b.target_prompts) <= MAX_PROMPTS
    return room and a._replace(target_prompts=(), own=()) == b._replace(target_prompts=(), own=())


def checked(place: str, fields: Values | EditError, extra: Sequence[str], need_targets: bool) -> Row | BadRow:
    """A reader's fields as a row; `extra` target prompts are added to its own."""
    clip = place
    try:
        if isinstance(fields, EditError):
            raise fields
        named = _one(place, "clip", fields)
        if not isinstance(named, str) or not named.strip():
            raise ClipError(place, "the field clip is missing or no text", "give a path or URL", field="row")
        clip = named
        source = _prompt(clip, "source_prompt", _one(clip, "source_prompt", fields) or "")
        targets = _targets(clip, fields.get("target_prompts", []), extra)
        if need_targets and not targets:
            raise ClipError(_short(clip), "it has no target prompts", "fill target_prompts or give a prompts file")
        own = own_text(_short(clip), fields.get(OWN, []))
        image, owns = _uri(clip, _one(clip, "first_frame_uri", fields)), (own,) * len(targets)
        return Row(clip, source, targets, image, owns, _fps(fields), next(iter(fields.get(INSIDE, [])), None))
    except EditError as error:
        return BadRow(printable(clip[:200]), error)


def _is_missing(value: Any) -> bool:
    """Whether a value is empty: None, blank, or NaN as a number or as text."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and value.strip().lower() in ("", "nan"))
    )


def _one(clip: str, field: str, fields: Values) -> Any:
    """A row's value for a field; None where it is empty. Raises ClipError where two columns differ."""
    given = [value for value in fields.get(field, []) if not _is_missing(value)]
    if any(value != given[0] for value in given[1:]):
        names = " and ".join(ALIASES[field])
        problem = f"two columns for {field} ({names} mean the same) hold different values"
        raise ClipError(_short(clip), problem, "keep one of them", field="row" if field == "clip" else "clip")
    return given[0] if given else None


def _targets(clip: str, values: list[Any], extra: Sequence[str]) -> tuple[str, ...]:
    own: list[Any] = []
    for value in values:
        if (isinstance(value, Pairs) or not isinstance(value, list | str)) and not _is_missing(value):
            problem = "target_prompts is no list of texts"
            raise ClipError(_short(clip), problem, "write a list such as ['a blue circle']")
        own += value if isinstance(value, list) else [value]
    own = [value for value in own if not _is_missing(value)]
    if len(own) + len(extra) > MAX_PROMPTS:
        raise ClipError(_short(clip), f"it has more than {MAX_PROMPTS} target prompts", "split them over several rows")
    prompts = [_prompt(clip, "target prompt", one) for one in own] + list(extra)
    return tuple(dict.fromkeys(prompt for prompt in prompts if prompt))


def _uri(clip: str, value: Any) -> str:
    if not isinstance(value or "", str):
        raise ClipError(_short(clip), "its first_frame_uri is no text", "give a path or URL, or leave it out")
    return (value or "").strip()


def _fps(fields: Values) -> str:
    """The column fps as text. It stays one of the user's own columns, for videos have their own rate."""
    given = (value for name, value in fields.get(OWN, []) if name.strip().lower() == "fps" and not _is_missing(value))
    return str(next(given, ""))[:40].strip()


def _prompt(clip: str, field: str, value: Any) -> str:
    """A prompt on one line: line breaks and tabs become spaces. Raises ClipError."""
    if not isinstance(value, str):
        raise ClipError(_short(clip), f"its {field} is no text", "write it as text")
    text = BREAKS.sub(" ", value.strip()).strip()
    if len(text) > MAX_PROMPT:
        raise ClipError(_short(clip), f"its {field} has {len(text)} characters", f"shorten it to {MAX_PROMPT}")
    if has_control(text):
        raise ClipError(_short(clip), f"its {field} has control characters or is not UTF-8", "remove them")
    return text


def _short(clip: str) -> str:
    return printable(clip[:200])
