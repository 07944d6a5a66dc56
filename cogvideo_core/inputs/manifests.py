"""Rows of a manifest or prompts file, read as a stream: CSV, JSONL, Parquet or plain text, on any allowed store.

A row that can't be used is yielded as the error it raised; a file that can't be used raises BadManifest.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.errors import BadManifest, ClipError, EditError, one_line
from cogvideo_core.inputs.columns import ALIASES, KNOWN, OWN, Pairs, Values
from cogvideo_core.inputs.edit_fields import edits_of, override_of
from cogvideo_core.inputs.fields import MAX_PROMPTS, is_missing, one, part_of, prompt_of, short
from cogvideo_core.inputs.lines import lines, opened
from cogvideo_core.inputs.own_columns import own_text
from cogvideo_core.storage.uris import path_part, printable, scrubbed

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t"


class Row(NamedTuple):
    """One checked line of a manifest; the addresses of clip and first frame are not resolved yet."""

    clip: str
    source_prompt: str
    target_prompts: tuple[str, ...]
    first_frame_uri: str = ""
    own: tuple[str, ...] = ()  # the user's own columns as JSON, one for each target prompt
    overrides: tuple[str, ...] = ()  # of the run's recipe, one for each target prompt; the same may come with several
    part: tuple[float, float] = (0.0, 0.0)  # start and end in seconds, 0 where they are not given


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

    Adjacent rows that differ in target prompts, overrides and own columns alone become one, its target prompts in
    order, without duplicates. A row with `edits` is read as if each of them had a row. Rows that are not adjacent are
    not merged: that would need all rows in memory. Raises BadManifest while iterating.
    """
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}
    held: Row | None = None
    for row in (row for line in readers[ending(uri)](uri) for row in _rows_of(*line, extra, need_targets)):
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
    row = _checked(place, fields, extra, need_targets and not listed)
    if isinstance(row, BadRow) or isinstance(fields, EditError) or not listed:
        yield row
        return
    try:
        edits = [_checked(place, part, (), True) for part in edits_of(row.clip, fields)]
    except EditError as error:
        yield BadRow(printable(row.clip[:200]), error)
        return
    wrong = [_about_edit(number, edit) for number, edit in enumerate(edits, 1) if isinstance(edit, BadRow)]
    if edits and row.target_prompts and not wrong:
        yield row
    yield from wrong[:1] or edits or [_checked(place, fields, extra, need_targets)]


def _about_edit(number: int, bad: BadRow) -> BadRow:
    """The error says which of a row's edits is wrong."""
    error = bad.error
    if not isinstance(error, ClipError):
        return bad
    return bad._replace(error=type(error)(error.clip, f"edit {number}: {error.problem}", error.remedy, error.field))


def _checked(place: str, fields: Values | EditError, extra: Sequence[str], need_targets: bool) -> Row | BadRow:
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
        return Row(clip, source, targets, image, (own,) * many, (override,) * many, part_of(clip, fields))
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
            value = json.loads(line, object_pairs_hook=Pairs)
        except (ValueError, RecursionError) as error:
            yield place, ClipError(place, f"it is not JSON ({str(error)[:80]})", "correct it", field="row")
            continue
        if isinstance(value, Pairs):
            found: Values = {f: [v for name, v in value if name.strip().lower() in ALIASES[f]] for f in ALIASES}
            yield place, found | {OWN: [pair for pair in value if pair[0].strip().lower() not in KNOWN]}
        else:
            yield place, ClipError(place, "it is no JSON object", "write {...} with clip in it", field="row")


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
