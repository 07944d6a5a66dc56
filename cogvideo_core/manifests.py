"""Rows of a manifest or prompts file, read as a stream: CSV, JSONL, Parquet or plain text, on any allowed store.

A row that can't be used is yielded as the error it raised; a file that can't be used raises BadManifest.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core.errors import BadManifest, ClipError, EditError
from cogvideo_core.uris import has_control, is_remote, local_path, open_store, path_part, printable, scrubbed

ENDINGS = (".jsonl", ".csv", ".parquet")
ALIASES = {
    "clip": ("clip", "file_name", "video", "uri"),
    "source_prompt": ("source_prompt", "caption"),
    "target_prompts": ("target_prompts", "target_prompt"),
    "first_frame_uri": ("first_frame_uri",),
}
MAX_PROMPT = 2_000  # characters
MAX_PROMPTS = 1_000  # of one clip
MAX_LINE_BYTES = 1 << 20


class Row(NamedTuple):
    """One line of a manifest, checked: the texts of clip and first frame are still to be resolved."""

    clip: str
    source_prompt: str
    target_prompts: tuple[str, ...]
    first_frame_uri: str = ""


class BadRow(NamedTuple):
    """A line that can't be used; `clip` is its clip, or says where it stands."""

    clip: str
    error: EditError


def is_manifest(uri: str) -> bool:
    return ending(uri) in ENDINGS


def ending(uri: str) -> str:
    return posixpath.splitext(path_part(uri))[1].lower()


def manifest_rows(uri: str, extra: Sequence[str] = (), need_targets: bool = True) -> Iterator[Row | BadRow]:
    """Checked rows of a manifest; `extra` target prompts are added to each.

    Adjacent rows that differ in target prompts alone become one, their target prompts in order, without duplicates.
    Rows further apart stay apart, so memory stays flat. Raises BadManifest while iterating.
    """
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    held: Row | None = None
    for place, fields in readers[ending(uri)](uri):
        row = _checked(place, fields, extra, need_targets)
        if held and isinstance(row, Row) and _same(held, row):
            row = row._replace(target_prompts=tuple(dict.fromkeys(held.target_prompts + row.target_prompts)))
        elif held:
            yield held
        held = row if isinstance(row, Row) else None
        if isinstance(row, BadRow):
            yield row
    if held:
        yield held


def text_prompts(uri: str) -> list[str]:
    """Target prompts of a text file, one a line; blank lines and lines that start with # are left out.

    Raises BadManifest.
    """
    prompts: dict[str, None] = {}
    for place, line in _lines(uri):
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
    return room and a._replace(target_prompts=()) == b._replace(target_prompts=())


def _checked(place: str, fields: dict[str, Any] | EditError, extra: Sequence[str], need_targets: bool) -> Row | BadRow:
    clip = place
    try:
        if isinstance(fields, EditError):
            raise fields
        if not isinstance(fields.get("clip"), str) or not fields["clip"].strip():
            raise ClipError(place, "the field clip is missing or no text", "give a path or URL", field="row")
        clip = fields["clip"]
        source = _prompt(clip, "source_prompt", fields.get("source_prompt") or "")
        targets = _targets(clip, fields.get("target_prompts"), extra)
        if need_targets and not targets:
            raise ClipError(_short(clip), "it has no target prompts", "fill target_prompts or give a prompts file")
        return Row(clip, source, targets, _uri(clip, fields.get("first_frame_uri")))
    except EditError as error:
        return BadRow(printable(clip[:200]), error)


def _targets(clip: str, value: Any, extra: Sequence[str]) -> tuple[str, ...]:
    own = [value] if isinstance(value, str) else value or []
    if not isinstance(own, list):
        raise ClipError(_short(clip), "target_prompts is no list of texts", "write a list such as ['a blue circle']")
    if len(own) + len(extra) > MAX_PROMPTS:
        raise ClipError(_short(clip), f"it has more than {MAX_PROMPTS} target prompts", "split them over several rows")
    prompts = [_prompt(clip, "target prompt", one) for one in own] + list(extra)
    return tuple(dict.fromkeys(prompt for prompt in prompts if prompt))


def _uri(clip: str, value: Any) -> str:
    if not isinstance(value or "", str):
        raise ClipError(_short(clip), "its first_frame_uri is no text", "give a path or URL, or leave it out")
    return (value or "").strip()


def _prompt(clip: str, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ClipError(_short(clip), f"its {field} is no text", "write it as text")
    text = value.strip()
    if len(text) > MAX_PROMPT:
        raise ClipError(_short(clip), f"its {field} has {len(text)} characters", f"shorten it to {MAX_PROMPT}")
    if has_control(text):
        raise ClipError(_short(clip), f"its {field} has control characters or is not UTF-8", "remove them")
    return text


def _short(clip: str) -> str:
    return printable(clip[:200])


def _columns(uri: str, header: Sequence[str]) -> dict[str, int]:
    """Where each known field stands. Raises BadManifest when there is no clip column."""
    names = [name.strip() for name in header]
    columns = {field: next((names.index(a) for a in ALIASES[field] if a in names), -1) for field in ALIASES}
    if columns["clip"] < 0:
        found = printable(", ".join(names))[:200]
        raise BadManifest(
            f"manifest {uri!r} has no column clip (found: {found}); name it clip, file_name, video or uri"
        )
    return {field: at for field, at in columns.items() if at >= 0}


def _jsonl_rows(uri: str) -> Iterator[tuple[str, dict[str, Any] | EditError]]:
    for place, line in _lines(uri):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield place, ClipError(place, f"it is not JSON ({str(error)[:80]})", "correct it", field="row")
            continue
        if isinstance(value, dict):
            yield place, {f: next((value[a] for a in ALIASES[f] if value.get(a) is not None), None) for f in ALIASES}
        else:
            yield place, ClipError(place, "it is no JSON object", "write {...} with clip in it", field="row")


def _csv_rows(uri: str) -> Iterator[tuple[str, dict[str, Any] | EditError]]:
    reader = csv.reader(line for _, line in _lines(uri))
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
        if cells:
            yield f"line {reader.line_num}", _csv_fields(f"line {reader.line_num}", cells, len(header), columns)


def _csv_fields(place: str, cells: list[str], width: int, columns: dict[str, int]) -> dict[str, Any] | EditError:
    if len(cells) != width:  # an unquoted comma in a prompt would cut it short in silence
        problem = f"it has {len(cells)} cells, the header {width}"
        return ClipError(place, problem, 'put texts with commas in "quotes"', field="row")
    fields: dict[str, Any] = {field: cells[at].strip() for field, at in columns.items()}
    return fields | {"target_prompts": fields.get("target_prompts", "").split("|")}


def _parquet_rows(uri: str) -> Iterator[tuple[str, dict[str, Any] | EditError]]:
    with _opened(uri) as file:
        try:
            table = pq.ParquetFile(file)
            names = list(table.schema_arrow.names)
            columns = _columns(uri, names)
            row = 0
            for batch in table.iter_batches(batch_size=256, columns=[names[at] for at in columns.values()]):
                for values in batch.to_pylist():
                    row += 1
                    yield f"row {row}", {field: values[names[at]] for field, at in columns.items()}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadManifest(
                f"manifest {uri!r} is no readable Parquet file ({scrubbed(error)}); write it anew"
            ) from error


def _lines(uri: str) -> Iterator[tuple[str, str]]:
    """("line 1", text): bytes that are no UTF-8 become lone surrogates, which the row's check refuses."""
    with _opened(uri) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise BadManifest(f"file {uri!r}: line {number} is longer than {MAX_LINE_BYTES} bytes; split it")
            yield f"line {number}", line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


@contextmanager
def _opened(uri: str) -> Iterator[BinaryIO]:
    try:
        if is_remote(uri):
            store, path = open_store(uri)
            file = io.BufferedReader(store.open(path, "rb"))
        else:
            file = open(local_path(uri), "rb")  # noqa: SIM115 - closed by the with below
    except FileNotFoundError as error:
        raise BadManifest(f"file {uri!r} does not exist; check the path") from error
    except Exception as error:  # every store has its own classes
        raise BadManifest(f"file {uri!r} can't be read ({scrubbed(error)}); check address and access") from error
    with file:
        yield file
