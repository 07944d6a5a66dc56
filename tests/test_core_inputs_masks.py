"""What a row says of its mask, read as one text; whatever it says is read at once, or refused in a sentence."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.errors import ClipError
from cogvideo_core.inputs.masks import boxes, is_file, mask_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([0, 0, 1, 0.5], "box 0 0 1 0.5"),
        ([[0, 0, 1, 1], [0.5, 0, 0.5, 1]], "box 0 0 1 1; 0.5 0 0.5 1"),
        ("box .25 0 .5 1.", "box .25 0 .5 1."),
        ("box 0 0 1e-1 1;0 0 1 1", "box 0 0 1e-1 1;0 0 1 1"),
        ("Auto", "auto"),
        ("NONE", "none"),
        ("masks/None.png", "masks/None.png"),
        (None, ""),
    ],
)
def test_boxes_and_words_of_any_form(value: Any, text: str) -> None:
    """Lists and texts of boxes are boxes, auto and none are known in any case, and a file keeps its name."""
    assert mask_text("a.mp4", value) == text
    assert (boxes(text) is not None) == text.startswith("box") and is_file(text) == text.endswith(".png")


@pytest.mark.parametrize("value", [[[0, 0, 1, 1], None], [None], [True, 0, 1, 1], [[0, 0, 1]], [0, 0, -1, 1], {"a": 1}])
def test_what_is_no_box_is_one_sentence(value: Any) -> None:
    """It names the clip and what to write."""
    with pytest.raises(ClipError, match=r"^clip 'a\.mp4': its mask is neither text nor a list of four numbers; give"):
        mask_text("a.mp4", value)


@pytest.mark.parametrize("tail", ["0" * 5000, "0" * 5000 + "e", "0000000;" * 600, " 0" * 5000, ";" * 5000])
def test_no_text_takes_long(tail: str) -> None:
    """A hostile row costs no time."""
    started = time.process_time()
    with pytest.raises(ClipError, match="is no box"):
        mask_text("a.mp4", f"box 0 0 1 1;{tail}")
    assert time.process_time() - started < 1


@given(st.text("box0123. ;e-", max_size=40))
def test_every_text_is_read_or_refused(text: str) -> None:
    """Boxes are inside the picture, and all else stays as it is."""
    try:
        found = mask_text("a.mp4", text)
    except ClipError:
        return
    assert all(x + w <= 1.01 and y + h <= 1.01 for x, y, w, h in boxes(found) or ())
