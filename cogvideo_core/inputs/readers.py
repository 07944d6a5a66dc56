"""Rows of text manifests as fields: JSON, JSONL, CSV and its kin with tabs or semicolons."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from cogvideo_core.errors import BadManifest, ClipError, EditError
from cogvideo_core.inputs.columns import OWN, Given, Pairs, Values, columns_of, object_fields, own_of
from cogvideo_core.inputs.lines import lines, opened

DELIMITERS = ",;\t"
MAX_JSON_BYTES = 64_000_000  # a list is held in memory whole; JSON Lines are not
MAX_JSON_DEPTH = 32  # of lists and objects in each other


def jsonl_rows(uri: str) -> Iterator[Given]:
    """A row for each line that is not blank."""
    for place, line in lines(uri):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=Pairs)
        except (ValueError, RecursionError) as error:
            yield place, ClipError(place, f"it is not JSON ({str(error)[:80]})", "correct it", field="row")
            continue
        yield place, _fields(place, value)


def json_rows(uri: str) -> Iterator[Given]:
    """A row for each object of a list. Raises BadManifest for anything but a list, and for one that is too large."""
    for number, value in enumerate(_list_in(uri), 1):
        yield f"row {number}", _fields(f"row {number}", value)


def _list_in(uri: str) -> list[Any]:
    with opened(uri) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise BadManifest(
            f"manifest {uri!r} has more than {MAX_JSON_BYTES // 10**6} MB; write it as JSON Lines (.jsonl)"
        )
    try:
        value = json.loads(data, object_pairs_hook=Pairs)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]
        raise BadManifest(f"manifest {uri!r} is not JSON ({why}); correct it") from error
    if isinstance(value, Pairs) or not isinstance(value, list):
        kind = "one object" if isinstance(value, Pairs) else "a single value"
        raise BadManifest(f"manifest {uri!r} holds {kind} and no list of rows; write [{{...}}, ...] or JSON Lines")
    return value


def _fields(place: str, value: Any) -> Values | EditError:
    """A JSON object's fields, or the error that it is."""
    try:
        return object_fields(place, shallow(value))
    except ValueError:
        return ClipError(place, f"it is nested more than {MAX_JSON_DEPTH} deep", "flatten it", field="row")


def shallow(value: Any) -> Any:
    """A JSON value itself. Raises ValueError for one that is nested too deeply to be walked through."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        parts = (part for whole in level if isinstance(whole, list) for part in whole)
        level = [part[1] if isinstance(part, tuple) else part for part in parts]  # a tuple is a name and its value
    if any(isinstance(part, list) for part in level):
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep")
    return value


def csv_rows(uri: str) -> Iterator[Given]:
    """A row for each line that is not blank; the delimiter is the one that the first line has most of."""
    texts = (line for _, line in lines(uri))
    first = next(texts, "")
    reader = csv.reader(chain([first], texts), delimiter=max(DELIMITERS, key=first.count))
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise BadManifest(f"manifest {uri!r}: the header can't be read ({error}); save it as UTF-8 CSV") from error
    columns = columns_of(uri, header)
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
    prompts = [part for text in fields["target_prompts"] for part in text.split("|")]
    return fields | {"target_prompts": prompts, OWN: own_of(header, [cell.strip() for cell in cells])}
