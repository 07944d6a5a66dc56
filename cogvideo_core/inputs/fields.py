"""The values of one row of a manifest, checked: text, numbers and seconds."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from cogvideo_core.errors import ClipError
from cogvideo_core.inputs.columns import ALIASES, Values
from cogvideo_core.storage.uris import has_control, printable

MAX_PROMPT = 2_000  # characters
MAX_PROMPTS = 1_000  # of one clip
MOST_SECONDS = 1e6
BREAKS = re.compile(r"\s*[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # line breaks and tabs, with the spaces around them
NUMBER = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")
CLOCK = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,2}):([0-9]{1,2}(?:\.[0-9]{0,9})?)")


def is_missing(value: Any) -> bool:
    """Whether a value is empty: None, blank, or NaN as a number or as text."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and value.strip().lower() in ("", "nan"))
    )


def one(clip: str, field: str, fields: Values) -> Any:
    """A row's value for a field; None where it is empty. Raises ClipError where two columns differ."""
    given = [value for value in fields.get(field, []) if not is_missing(value)]
    if any(value != given[0] for value in given[1:]):
        names = " and ".join(ALIASES[field])
        problem = f"two columns for {field} ({names} mean the same) hold different values"
        raise ClipError(short(clip), problem, "keep one of them", field="row" if field == "clip" else "clip")
    return given[0] if given else None


def prompt_of(clip: str, field: str, value: Any) -> str:
    """A prompt on one line: line breaks and tabs become spaces. Raises ClipError."""
    if not isinstance(value, str):
        raise ClipError(short(clip), f"its {field} is no text", "write it as text")
    text = BREAKS.sub(" ", value.strip()).strip()
    if len(text) > MAX_PROMPT:
        raise ClipError(short(clip), f"its {field} has {len(text)} characters", f"shorten it to {MAX_PROMPT}")
    if has_control(text):
        raise ClipError(short(clip), f"its {field} has control characters or is not UTF-8", "remove them")
    return text


def number_of(value: Any) -> float | int | None:
    """A number, or a text that is one; whole ones as int, as far as they are exact. None for anything else."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        text = value.strip()
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if abs(value) < 2**53 and value == int(value) else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def part_of(clip: str, fields: Values) -> tuple[float, float]:
    """(start, end) of the part that is edited, in seconds; 0 where they are not given. Raises ClipError."""
    start, end = (_seconds(clip, field, one(clip, field, fields)) for field in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        problem = f"its end {end:g} s is not after its start {start or 0.0:g} s"
        raise ClipError(short(clip), problem, "give a later end, or leave it empty for the clip's own")
    return start or 0.0, end or 0.0


def _seconds(clip: str, field: str, value: Any) -> float | None:
    """Of a number, "1.5", "01:02.5" or "00:01:02.5", to the microsecond; None where it is empty."""
    if value is None:
        return None
    clock = CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    found = number_of(value)
    if clock and int(clock[2]) < 60 and float(clock[3]) < 60:
        found = int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if found is None or not 0 <= found <= MOST_SECONDS:
        problem = f"its {field} {shown(value)} is no time in the clip"
        raise ClipError(short(clip), problem, "give seconds from 0 on, such as 1.5, or 00:01:02.5")
    return round(float(found), 6)


def shown(value: Any) -> str:
    """A wrong value, as sentences show it."""
    return printable(repr(value if isinstance(value, str) else str(value)))[:60]


def short(clip: str) -> str:
    return printable(clip[:200])
