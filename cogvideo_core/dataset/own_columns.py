"""Users' own columns in the tables: named so that nothing clashes, and of one type each."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cogvideo_core.dataset.columns import Columns

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


class OwnColumns:
    """The users' columns of many rows, which come one after the other as JSON texts: first `add` each, then ask.

    Every row has all columns, None where it has no value. A column whose values are of different types becomes text.
    """

    def __init__(self, taken: Collection[str]) -> None:
        self.taken, self.kinds, self.values = taken, dict[str, set[str]](), Columns()

    def add(self, text: str) -> None:
        for name, value in _parsed(text).items():
            self.kinds.setdefault(name, set()).add(_kind(value))
            self.values.add(name, value)

    def names(self) -> dict[str, str]:
        """The user's name of each column -> its name in the tables."""
        return own_names(sorted(self.kinds), self.taken)

    def mixed(self) -> set[str]:
        """The columns that become text."""
        return {name for name, kinds in self.kinds.items() if len(_different(kinds)) > 1}

    def types(self) -> dict[str, pa.DataType]:
        """The Arrow type of each column, by its name in the tables."""
        types, mixed = self.values.types(), self.mixed()
        return {new: pa.string() if name in mixed else types[name] for name, new in self.names().items()}

    def columns(self) -> Callable[[str], Row]:
        """What makes the columns of a row from its text."""
        called, mixed = self.names(), self.mixed()

        def columns_of(text: str) -> Row:
            row = _parsed(text)
            return {new: _as_text(row.get(name)) if name in mixed else row.get(name) for name, new in called.items()}

        return columns_of


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _kind(value: Any) -> str:
    inner = {type(part).__name__ for part in value} if isinstance(value, list) else set()
    return f"list of {min(inner)}" if inner else type(value).__name__


def _different(kinds: set[str]) -> set[str]:
    """The kinds that don't fit each other."""
    if kinds <= {"int", "float"}:
        return {"number"}
    return kinds - {"list"} if any(kind.startswith("list of") for kind in kinds) else kinds  # an empty list fits any


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
