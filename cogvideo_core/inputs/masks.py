"""What a row says of its mask: a file, boxes, or how it is to be found. One text stands for all of them."""

from __future__ import annotations

import re
from typing import Any

from cogvideo_core.errors import ClipError

AUTO, NONE = "auto", "none"
NUMBER = r"(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:e-?\d{1,3})?"  # one way to read a text, so that none takes long
BOX = re.compile(rf"box((?:\s+{NUMBER}){{4}}(?:\s*;\s*{NUMBER}(?:\s+{NUMBER}){{3}})*)\s*", re.IGNORECASE)
TRACK = re.compile(rf"track((?:\s+{NUMBER}){{2}}|(?:\s+{NUMBER}){{4}})\s*", re.IGNORECASE)
FIND = re.compile(r"find\s+(.*\S)\s*", re.IGNORECASE | re.DOTALL)
FILE = re.compile(r".*(\.[A-Za-z0-9]{2,5}|/)", re.DOTALL)  # how the names of files and folders end
MAX_BOXES, MAX_WORDS = 10_000, 300
REMEDY = "give a file, auto, none, or box x y w h in fractions of the picture"


def mask_text(clip: str, value: Any) -> str:
    """A row's mask as one text: "" for none of its own, a path or URL, auto, none, or boxes. Raises ClipError."""
    if isinstance(value, list):
        value = _boxes_text(value)
    if not isinstance(value or "", str):
        raise ClipError(clip, "its mask is neither text nor a list of four numbers", REMEDY)
    text = (value or "").strip()
    text = text.lower() if text.lower() in (AUTO, NONE) else text
    if boxes(text) is not None:
        _check_boxes(clip, boxes(text) or [])
    elif (place := tracked(text)) is not None:
        x, y, w, h = (*place, 0.0, 0.0)[:4]
        if not (x + w <= 1.0001 and y + h <= 1.0001 and (len(place) == 2 or (w > 0 and h > 0))):
            problem = f"its mask {text[:60]!r} tracks what is not inside the picture"
            raise ClipError(clip, problem, "write a point x y or a box x y w h as fractions from 0 to 1")
    elif re.match(r"track\s", text, re.IGNORECASE) and re.fullmatch(r"[\s\d.,;eE+-]*", text[5:]):
        problem = f"its mask {text[:60]!r} tracks neither a point nor a box"
        raise ClipError(clip, problem, "write track x y, or track x y w h, in fractions of the picture")
    elif len(words(text) or "") > MAX_WORDS:
        raise ClipError(clip, f"its mask is to be found by more than {MAX_WORDS} characters", "name the object alone")
    elif re.match(r"box\s", text, re.IGNORECASE) and re.fullmatch(r"[\s\d.,;eE+-]*", text[3:]):
        raise ClipError(clip, f"its mask {text[:60]!r} is no box", "write box x y w h, in fractions of the picture")
    return text


def asked_mask(text: str | None, use: str) -> str:
    """What a row's mask comes from in a run with this `mask.use`: "" for none, auto, a file, boxes or words."""
    if use == "none" or text == NONE:
        return ""
    return text or (AUTO if use == "auto" else "")


def is_file(text: str) -> bool:
    """Whether a row's mask is a path or URL."""
    return bool(text) and text not in (AUTO, NONE) and boxes(text) is None and not by_model(text)


def by_model(text: str) -> bool:
    """Whether a row's mask is found by a detector or a segmenter."""
    return words(text) is not None or tracked(text) is not None


def words(text: str) -> str | None:
    """What a detector is to find; None where the mask is something else, also a file that is called so."""
    found = FIND.fullmatch(text)
    return None if found is None or FILE.fullmatch(text) else found[1]


def tracked(text: str) -> tuple[float, ...] | None:
    """The point (x, y) or box (x, y, w, h) of the window's first frame that is to be followed; None without one."""
    found = TRACK.fullmatch(text)
    return None if found is None else tuple(map(float, found[1].split()))


def boxes(text: str) -> list[tuple[float, float, float, float]] | None:
    """The boxes (x, y, w, h) that a mask's text holds, a fixed one or one a frame; None where it is something else."""
    found = BOX.fullmatch(text)
    if found is None:
        return None
    return [(x, y, w, h) for x, y, w, h in (map(float, part.split()) for part in found[1].split(";"))]


def _boxes_text(value: list[Any]) -> Any:
    """[x, y, w, h] or a list of them as text; anything else unchanged."""
    each = value if value and isinstance(value[0], list) else [value]
    whole = all(isinstance(box, list) and len(box) == 4 and all(map(_is_length, box)) for box in each)
    return "box " + "; ".join(" ".join(map(str, box)) for box in each) if whole else value


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _check_boxes(clip: str, found: list[tuple[float, float, float, float]]) -> None:
    if len(found) > MAX_BOXES:
        raise ClipError(clip, f"its mask has {len(found)} boxes, more than {MAX_BOXES}", "give a video instead")
    for x, y, w, h in found:
        if not (w > 0 and h > 0 and x + w <= 1.0001 and y + h <= 1.0001):
            problem = f"its mask has a box {x:g} {y:g} {w:g} {h:g}, which is not inside the picture"
            raise ClipError(clip, problem, "write x y w h as fractions from 0 to 1")
