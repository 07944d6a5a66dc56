"""What a row says of its mask: a file, boxes, or that it is to be found. One text stands for all of them."""

from __future__ import annotations

import re
from typing import Any

from cogvideo_core.errors import ClipError

AUTO, NONE = "auto", "none"
NUMBER = r"\d*\.?\d+(?:e-?\d+)?"
BOX = re.compile(rf"box((?:\s+{NUMBER}){{4}}(?:\s*;(?:\s*{NUMBER}){{4}})*)\s*", re.IGNORECASE)
MAX_BOXES = 10_000
REMEDY = "give a file, auto, none, or box x y w h in fractions of the picture"


def mask_text(clip: str, value: Any) -> str:
    """A row's mask as one text: "" for none of its own, a path or URL, auto, none, or boxes. Raises ClipError."""
    if isinstance(value, list):
        value = _boxes_text(value)
    if not isinstance(value or "", str):
        raise ClipError(clip, "its mask is neither text nor a list of four numbers", REMEDY)
    text = (value or "").strip()
    if boxes(text) is not None:
        _check_boxes(clip, boxes(text) or [])
    elif re.match(r"box\s", text, re.IGNORECASE) and re.fullmatch(r"[\s\d.,;eE+-]*", text[3:]):
        raise ClipError(clip, f"its mask {text[:60]!r} is no box", "write box x y w h, in fractions of the picture")
    return text


def is_file(text: str) -> bool:
    """Whether a row's mask is a path or URL."""
    return bool(text) and text not in (AUTO, NONE) and boxes(text) is None


def boxes(text: str) -> list[tuple[float, float, float, float]] | None:
    """The boxes (x, y, w, h) that a mask's text holds, a fixed one or one a frame; None where it is something else."""
    found = BOX.fullmatch(text)
    if found is None:
        return None
    return [(x, y, w, h) for x, y, w, h in (map(float, part.split()) for part in found[1].split(";"))]


def _boxes_text(value: list[Any]) -> Any:
    """[x, y, w, h] or a list of them as text; anything else unchanged."""
    each = value if value and isinstance(value[0], list) else [value]
    whole = all(len(box) == 4 and all(isinstance(n, int | float) and n >= 0 for n in box) for box in each)
    return "box " + "; ".join(" ".join(map(str, box)) for box in each) if whole else value


def _check_boxes(clip: str, found: list[tuple[float, float, float, float]]) -> None:
    if len(found) > MAX_BOXES:
        raise ClipError(clip, f"its mask has {len(found)} boxes, more than {MAX_BOXES}", "give a video instead")
    for x, y, w, h in found:
        if not (w > 0 and h > 0 and x + w <= 1.0001 and y + h <= 1.0001):
            problem = f"its mask has a box {x:g} {y:g} {w:g} {h:g}, which is not inside the picture"
            raise ClipError(clip, problem, "write x y w h as fractions from 0 to 1")
