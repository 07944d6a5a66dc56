"""Checked rows of a manifest or prompts file, read as a stream on any allowed store; `READERS` has the kinds.

A row that can't be used is yielded as the error it raised; a file that can't be used raises BadManifest.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cogvideo_core.errors import BadManifest, ClipError, EditError
from cogvideo_core.inputs.columns import INSIDE, OWN, Inside, Pairs, Values
from cogvideo_core.inputs.edit_fields import edits_of, override_of
from cogvideo_core.inputs.fields import MAX_PROMPTS, is_missing, one, part_of, prompt_of, short
from cogvideo_core.inputs.lines import lines
from cogvideo_core.inputs.masks import mask_text
from cogvideo_core.inputs.own_columns import own_text
from cogvideo_core.inputs.readers import csv_rows, json_rows, jsonl_rows
from cogvideo_core.inputs.tables import arrow_rows, parquet_rows
from cogvideo_core.inputs.tars import tar_rows
from cogvideo_core.storage.uris import path_part, printable

READERS = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    ".tar": tar_rows,
}


class Row(NamedTuple):
    """One checked line of a manifest; the addresses of clip, first frame and mask are not resolved yet."""

    clip: str
    source_prompt: str
    target_prompts: tuple[str, ...]
    first_frame_uri: str = ""
    own: tuple[str, ...] = ()  # the user's own columns as JSON, one for each target prompt
    overrides: tuple[str, ...] = ()  # of the run's recipe, one for each target prompt; the same may come with several
    part: tuple[float, float] = (0.0, 0.0)  # start and end in seconds, 0 where they are not given
    fps: str = ""  # of a folder of frames, as written
    inside: Inside | None = None  # where the clip lies, if in another file
    mask: str = ""  # a path or URL, auto, none, boxes, or "" for none of its own


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

    Adjacent rows that differ in target prompts, overrides and own columns alone become one, its target prompts in
    order, without duplicates. A row with `edits` is read as if each of them had a row. Rows that are not adjacent are
    not merged: that would need all rows in memory. Raises BadManifest while iterating.
    """
    held: Row | None = None
    for row in (row for line in READERS[ending(uri)](uri) for row in _rows_of(*line, extra, need_targets)):
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
    """Both rows' target prompts in order, each override of one once, with the own columns of its first row."""
    owns: dict[tuple[str, str], str] = {}
    for row in (a, b):
        for prompt, override, own in zip(row.target_prompts, row.overrides, row.own, strict=True):
            owns.setdefault((prompt, override), own)
    prompts, overrides = zip(*owns, strict=True) if owns else ((), ())
    return b._replace(target_prompts=prompts, overrides=overrides, own=tuple(owns.values()))


def text_prompts(uri: str) -> list[str]:
    """Target prompts of a text file, one a line; blank lines and lines that start with # are left out.

    Raises BadManifest.
    """
    prompts: dict[str, None] = {}
    for place, line in lines(uri):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                prompts[prompt_of(place, "prompt", line)] = None
            except ClipError as error:
                raise BadManifest(f"prompts file {uri!r}: {error}") from error
        if len(prompts) > MAX_PROMPTS:
            raise BadManifest(f"prompts file {uri!r} has more than {MAX_PROMPTS} prompts; split it")
    if not prompts:
        raise BadManifest(f"prompts file {uri!r} holds no prompt; write one target prompt a line, in UTF-8")
    return list(prompts)


def _same(a: Row, b: Row) -> bool:
    room = len(a.target_prompts) + len(b.target_prompts) <= MAX_PROMPTS
    nothing: dict[str, Any] = {"target_prompts": (), "own": (), "overrides": ()}
    return room and a._replace(**nothing) == b._replace(**nothing)


def _rows_of(
    place: str, fields: Values | EditError, extra: Sequence[str], need_targets: bool
) -> Iterator[Row | BadRow]:
    """A line's row, or one for each of its edits; a single bad one where anything is wrong."""
    listed = not isinstance(fields, EditError) and not all(map(is_missing, fields.get("edits", [])))
    row = checked(place, fields, extra, need_targets and not listed)
    if isinstance(row, BadRow) or isinstance(fields, EditError) or not listed:
        yield row
        return
    try:
        edits = [checked(place, part, (), True) for part in edits_of(row.clip, fields)]
    except EditError as error:
        yield BadRow(printable(row.clip[:200]), error)
        return
    wrong = [_about_edit(number, edit) for number, edit in enumerate(edits, 1) if isinstance(edit, BadRow)]
    if edits and row.target_prompts and not wrong:
        yield row
    yield from wrong[:1] or edits or [checked(place, fields, extra, need_targets)]


def _about_edit(number: int, bad: BadRow) -> BadRow:
    """The error says which of a row's edits is wrong."""
    error = bad.error
    if not isinstance(error, ClipError):
        return bad
    return bad._replace(error=type(error)(error.clip, f"edit {number}: {error.problem}", error.remedy, error.field))


def checked(place: str, fields: Values | EditError, extra: Sequence[str], need_targets: bool) -> Row | BadRow:
    """A reader's fields as a row; `extra` target prompts are added to its own."""
    clip = place
    try:
        if isinstance(fields, EditError):
            raise fields
        named = one(place, "clip", fields)
        if not isinstance(named, str) or not named.strip():
            raise ClipError(place, "the field clip is missing or no text", "give a path or URL", field="row")
        clip = named
        source = prompt_of(clip, "source_prompt", one(clip, "source_prompt", fields) or "")
        targets = _targets(clip, fields.get("target_prompts", []), extra)
        if need_targets and not targets:
            raise ClipError(short(clip), "it has no target prompts", "fill target_prompts or give a prompts file")
        own, override = own_text(short(clip), fields.get(OWN, [])), override_of(clip, fields)
        image, many = _uri(clip, one(clip, "first_frame_uri", fields)), len(targets)
        given = Row(clip, source, targets, image, (own,) * many, (override,) * many, part_of(clip, fields))
        inside, mask = next(iter(fields.get(INSIDE, [])), None), mask_text(short(clip), one(clip, "mask", fields))
        return given._replace(fps=_fps(fields), inside=inside, mask=mask)
    except EditError as error:
        return BadRow(printable(clip[:200]), error)


def _targets(clip: str, values: list[Any], extra: Sequence[str]) -> tuple[str, ...]:
    own: list[Any] = []
    for value in values:
        if (isinstance(value, Pairs) or not isinstance(value, list | str)) and not is_missing(value):
            problem = "target_prompts is no list of texts"
            raise ClipError(short(clip), problem, "write a list such as ['a blue circle']")
        own += value if isinstance(value, list) else [value]
    own = [value for value in own if not is_missing(value)]
    if len(own) + len(extra) > MAX_PROMPTS:
        raise ClipError(short(clip), f"it has more than {MAX_PROMPTS} target prompts", "split them over several rows")
    prompts = [prompt_of(clip, "target prompt", text) for text in own] + list(extra)
    return tuple(dict.fromkeys(prompt for prompt in prompts if prompt))


def _uri(clip: str, value: Any) -> str:
    if not isinstance(value or "", str):
        raise ClipError(short(clip), "its first_frame_uri is no text", "give a path or URL, or leave it out")
    return (value or "").strip()


def _fps(fields: Values) -> str:
    """The column fps as text. It stays one of the user's own columns, for videos have their own rate."""
    given = (value for name, value in fields.get(OWN, []) if name.strip().lower() == "fps" and not is_missing(value))
    return str(next(given, ""))[:40].strip()
