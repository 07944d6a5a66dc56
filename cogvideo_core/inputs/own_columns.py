"""Columns of a manifest that are the user's own and travel with the edits: ids, licences, categories, instructions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from cogvideo_core.errors import ClipError
from cogvideo_core.storage.uris import has_control, printable

MOST_COLUMNS, MOST_NAME, MOST_CHARACTERS = 100, 100, 20_000  # of a row


def own_text(clip: str, given: Iterable[tuple[str, Any]]) -> str:
    """The columns as canonical JSON, "" where there are none. Strings, numbers, booleans and lists of them stay what
    they are, nested values become JSON text, dates and decimals text, bytes and empty values are left out.

    Raises ClipError for a row that holds too much.
    """
    found: dict[str, Any] = {}
    for name, value in given:
        key, plain = name.strip(), _plain(value)
        if plain is None or not key:
            continue
        if len(key) > MOST_NAME or has_control(key):
            raise ClipError(
                clip, f"its column {printable(key[:40])!r} has a name that can't be used", "rename it", field="row"
            )
        if key in found and found[key] != plain:
            raise ClipError(clip, f"two columns {printable(key)!r} hold different values", "rename one", field="row")
        found[key] = plain
    text = json.dumps(found, sort_keys=True, ensure_ascii=False, allow_nan=False) if found else ""
    if len(found) > MOST_COLUMNS or len(text) > MOST_CHARACTERS:
        problem = f"its own columns hold {len(found)} values of {len(text):,} characters"
        raise ClipError(clip, problem, f"keep {MOST_COLUMNS} of {MOST_CHARACTERS:,} at most", field="row")
    return text


def _plain(value: Any) -> Any:
    """A value as JSON holds it; None for one that is left out."""
    if value is None or isinstance(value, bytes | bytearray | memoryview) or value == "":
        return None
    if isinstance(value, bool | int):
        return value if abs(int(value)) < 2**63 else str(value)
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list) and not (value and isinstance(value[0], tuple)):
        parts = [_plain(part) for part in value]
        flat = all(isinstance(part, str | int | float | bool) for part in parts)
        return parts if flat and len({type(part) for part in parts}) <= 1 else _json(value)
    return _json(value) if isinstance(value, list | dict) else printable(str(value))


def _json(value: Any) -> str:
    """Nested values as JSON text; an object may be a list of (name, value) pairs."""

    def plain(part: Any) -> Any:
        if isinstance(part, list) and part and all(isinstance(pair, tuple) for pair in part):
            return {str(name): plain(one) for name, one in part}
        if isinstance(part, list | tuple):
            return [plain(one) for one in part]
        if isinstance(part, dict):
            return {str(name): plain(one) for name, one in part.items()}
        if isinstance(part, float) and not math.isfinite(part):
            return None
        return part if isinstance(part, str | int | float | bool | None) else str(part)

    return printable(json.dumps(plain(value), ensure_ascii=False, sort_keys=True))
