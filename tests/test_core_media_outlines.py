"""Outlines of masks: short texts that a page draws over a video."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cogvideo_core.media.outlines import MOST_CHARACTERS, UNITS, outline, safe_outline


def filled(path: str, height: int, width: int) -> np.ndarray:
    """The regions of a path whose borders cross no other: bool [height,width]."""
    picture = Image.new("L", (width, height))
    for region in re.findall(r"M([^Z]*)Z", path):
        points = [tuple(map(int, point.split())) for point in region.split("L")]
        ImageDraw.Draw(picture).polygon([(x * width / UNITS, y * height / UNITS) for x, y in points], fill=1)
    return np.asarray(picture) > 0


def disc(frames: int, height: int, width: int, speed: float) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    centres = [width / 4 + speed * frame for frame in range(frames)]
    return np.stack([(rows - height / 2) ** 2 + (columns - x) ** 2 < (height / 4) ** 2 for x in centres])


def test_an_outline_is_where_the_mask_is() -> None:
    """Filled, the outlines of a moving disc overlap it by nine tenths, each in its part of the clip."""
    mask = disc(12, 120, 200, 4.0)
    for part in outline(mask).split(";"):
        percent, path = part.split(":")
        frame = mask[round(int(percent) * 12 / 100)]
        drawn = filled(path, 120, 200)
        assert (drawn & frame).sum() / (drawn | frame).sum() > 0.9
    assert len(outline(mask).split(";")) == 6


def test_a_mask_that_stands_still_is_outlined_once() -> None:
    """One path for all frames; a gap in time is an empty one; nothing marked has no outline."""
    still = disc(9, 48, 48, 0.0)
    assert outline(still).startswith("0:M") and ";" not in outline(still)
    gap = np.concatenate([still[:3], np.zeros_like(still[:3]), still[:3]])
    paths = [part.split(":")[1] for part in outline(gap).split(";")]
    assert paths[0] and not paths[1] and paths[2] == paths[0]
    assert outline(np.zeros((9, 48, 48), bool)) == ""


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_no_mask_makes_a_long_outline(share: float) -> None:
    """Also of noise; and what is made is taken."""
    noise = np.random.default_rng(0).random((9, 64, 64)) < share
    assert 0 < len(outline(noise)) <= MOST_CHARACTERS and safe_outline(outline(noise)) == outline(noise)


@pytest.mark.parametrize("text", ['0:M1 1"/><script>', "0:M1 1L2 2Z" * 1000, 3, None, "x"])
def test_other_texts_are_no_outlines(text: object) -> None:
    """Whatever a table may hold, only numbers and the letters of paths reach the page."""
    assert safe_outline(text) == ""
