"""Users' own columns in the tables: named so that nothing clashes, and of one type each."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
PREFIX = "own_"
LOADED = {"video", "source", "image", "audio", "split"}  # names that `datasets` gives a meaning
MEDIA = ("_file_name", "_file_names")  # it takes columns with such names for media


def own_name(name: str, taken: Collection[str]) -> str:
    """The column's name in the tables: its own, prefixed where it clashes with a column of ours."""
    for ending in MEDIA:
        name = name.removesuffix(ending) + "_file" if name.endswith(ending) else name
    clashes = name in taken or name.lower() in LOADED or name.startswith(("score_", PREFIX))
    return PREFIX + name if clashes else name


def own_names(names: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """`own_name` of each column, with a number where two would be called the same."""
    found: dict[str, str] = {}
    for name in names:
        new, number = own_name(name, taken), 2
        while new in found.values():
            new, number = f"{own_name(name, taken)}_{number}", number + 1
        found[name] = new
    return found


def expanded(texts: Sequence[str], taken: Collection[str]) -> list[Row]:
    """The columns of each row from its JSON text: every row has all of them, None where it has no value. A column whose
    values are of different types becomes text."""
    rows = [_parsed(text) for text in texts]
    names = sorted({name for row in rows for name in row})
    mixed = {name for name in names if len(_kinds(row[name] for row in rows if name in row)) > 1}
    called = own_names(names, taken)
    return [
        {called[name]: _as_text(row.get(name)) if name in mixed else row.get(name) for name in names} for row in rows
    ]


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _kinds(values: Iterable[Any]) -> set[str]:
    found = set()
    for value in values:
        inner = {type(part).__name__ for part in value} if isinstance(value, list) else set()
        found.add(f"list of {min(inner)}" if inner else type(value).__name__)
    if found <= {"int", "float"}:
        return {"number"}
    return found - {"list"} if any(kind.startswith("list of") for kind in found) else found  # an empty list fits any


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
