"""Rows of a manifest or prompts file, read as a stream: CSV, JSONL, Parquet or plain text, on any allowed store.

A row that can't be used is yielded as the error it raised; a file that can't be used raises BadManifest.
"""

from __future__ import annotations

import csv
import json
import math
import posixpath
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.errors import BadManifest, ClipError, EditError, one_line
from cogvideo_core.inputs.lines import lines, opened
from cogvideo_core.inputs.own_columns import own_text
from cogvideo_core.storage.uris import has_control, path_part, printable, scrubbed

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t"
ALIASES = {
    "clip": ("clip", "file_name", "video", "uri"),
    "source_prompt": ("source_prompt", "caption"),
    "target_prompts": ("target_prompts", "target_prompt"),
    "first_frame_uri": ("first_frame_uri",),
}
KNOWN = {name for names in ALIASES.values() for name in names}
OWN = "own"  # (name, value) of the other columns
MAX_PROMPT = 2_000  # characters
MAX_PROMPTS = 1_000  # of one clip
BREAKS = re.compile(r"\s*[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # line breaks and tabs, with the spaces around them
Values = dict[str, list[Any]]
"""field -> values of its columns: several where a manifest has several columns for it."""


class Row(NamedTuple):
    """One checked line of a manifest; the addresses of clip and first frame are not resolved yet."""

    clip: str
    source_prompt: str
    target_prompts: tuple[str, ...]
    first_frame_uri: str = ""
    own: tuple[str, ...] = ()  # the user's own columns as JSON, one for each target prompt


class BadRow(NamedTuple):
    """A line that can't be used; `clip` is its clip, or its place in the file."""

    clip: str
    error: EditError


def is_manifest(uri: str) -> bool:
    return ending(uri) in ENDINGS


def ending(uri: str) -> str:
    return posixpath.splitext(path_part(uri))[1].lower()


def manifest_rows(uri: str, extra: Sequence[str] = (), need_targets: bool = True) -> Iterator[Row | BadRow]:
    """Checked rows of a manifest; `extra` target prompts are added to each.

    Adjacent rows that differ in target prompts alone become one, their target prompts in order, without duplicates.
    Rows that are not adjacent are not merged: that would need all rows in memory. Raises BadManifest while iterating.
    """
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}
    held: Row | None = None
    for place, fields in readers[ending(uri)](uri):
        row = _checked(place, fields, extra, need_targets)
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


def _checked(place: str, fields: Values | EditError, extra: Sequence[str], need_targets: bool) -> Row | BadRow:
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
        return Row(clip, source, targets, _uri(clip, _one(clip, "first_frame_uri", fields)), (own,) * len(targets))
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
        if (isinstance(value, _Pairs) or not isinstance(value, list | str)) and not _is_missing(value):
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


def _columns(uri: str, header: Sequence[str]) -> dict[str, list[int]]:
    """The column indices of each known field, under any of its names in any case. Raises BadManifest when there is
    no clip column."""
    names = [name.strip().lower() for name in header]
    columns = {field: [at for at, name in enumerate(names) if name in ALIASES[field]] for field in ALIASES}
    if not columns["clip"]:
        found = one_line(printable(", ".join(name.strip() for name in header)))[:200]
        raise BadManifest(
            f"manifest {uri!r} has no column clip (found: {found}); name it clip, file_name, video or uri"
        )
    return columns


def _jsonl_rows(uri: str) -> Iterator[tuple[str, Values | EditError]]:
    for place, line in lines(uri):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            yield place, ClipError(place, f"it is not JSON ({str(error)[:80]})", "correct it", field="row")
            continue
        if isinstance(value, _Pairs):
            found: Values = {f: [v for name, v in value if name.strip().lower() in ALIASES[f]] for f in ALIASES}
            yield place, found | {OWN: [pair for pair in value if pair[0].strip().lower() not in KNOWN]}
        else:
            yield place, ClipError(place, "it is no JSON object", "write {...} with clip in it", field="row")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as (name, value) pairs, so that a repeated name is noticed."""


def _csv_rows(uri: str) -> Iterator[tuple[str, Values | EditError]]:
    texts = (line for _, line in lines(uri))
    first = next(texts, "")
    reader = csv.reader(chain([first], texts), delimiter=max(DELIMITERS, key=first.count))
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise BadManifest(f"manifest {uri!r}: the header can't be read ({error}); save it as UTF-8 CSV") from error
    columns = _columns(uri, header)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield f"line {reader.line_num}", ClipError(f"line {reader.line_num}", str(error), "correct it", field="row")
            continue
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield f"line {reader.line_num}", _csv_fields(f"line {reader.line_num}", cells, header, columns)


def _csv_fields(
    place: str, cells: list[str], header: Sequence[str], columns: dict[str, list[int]]
) -> Values | EditError:
    width = len(header)
    while len(cells) > width and not cells[-1].strip():  # a spreadsheet's empty columns
        cells = cells[:-1]
    if len(cells) != width:  # an unquoted comma in a prompt would silently cut it short
        problem = f"it has {len(cells)} cells, the header {width}"
        return ClipError(place, problem, 'put texts with commas in "quotes"', field="row")
    fields: Values = {field: [cells[at].strip() for at in found] for field, found in columns.items()}
    own = [(name, cell.strip()) for name, cell in zip(header, cells, strict=True) if name.strip().lower() not in KNOWN]
    prompts = [part for text in fields["target_prompts"] for part in text.split("|")]
    return fields | {"target_prompts": prompts, OWN: own}


def _parquet_rows(uri: str) -> Iterator[tuple[str, Values | EditError]]:
    with opened(uri) as file:
        try:
            table = pq.ParquetFile(file)
            columns = _columns(uri, table.schema_arrow.names)
            wanted = {field: [table.schema_arrow.names[at] for at in found] for field, found in columns.items()}
            others = [field for field in table.schema_arrow if field.name.strip().lower() not in KNOWN]
            own = [field.name for field in others if not _holds_bytes(field.type)]
            row = 0
            for batch in table.iter_batches(
                batch_size=256, columns=sorted({n for names in wanted.values() for n in names} | set(own))
            ):
                held = {name: batch.column(name).to_pylist() for name in batch.schema.names}
                for index in range(batch.num_rows):
                    row += 1
                    yield (
                        f"row {row}",
                        {field: [held[name][index] for name in names] for field, names in wanted.items()}
                        | {OWN: [(name, held[name][index]) for name in own]},
                    )
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise BadManifest(
                f"manifest {uri!r} is no readable Parquet file ({scrubbed(error)}); write it anew"
            ) from error


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, such as pictures, itself or in its parts; those are not read."""
    own = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return own or any(_holds_bytes(kind.field(at).type) for at in range(kind.num_fields))
