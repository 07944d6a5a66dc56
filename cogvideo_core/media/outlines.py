"""The outline of a mask as a short text that a page can draw over a video.

"0:M10 20L30 40L10 40Z;50:M..." is a list of (percent of the clip from which it holds, SVG path); a path's numbers are
200ths of width and height.
"""

from __future__ import annotations

import re

import numpy as np

UNITS = 200  # of width and height
FRAMES = 6  # that are outlined, evenly
MOST_POINTS = 36  # of a frame
MOST_REGIONS = 12  # of a frame, the longest borders
MOST_CHARACTERS = 2_500
SAFE = re.compile(r"[0-9MLZ:; ]*")


def outline(mask: np.ndarray) -> str:
    """The outline of a mask bool [F,H,W], at most `MOST_CHARACTERS` long; "" for an empty one."""
    for frames in range(min(FRAMES, len(mask)), 0, -1):
        told, last = [], ""
        for index in range(frames):
            frame = index * len(mask) // frames
            path = _path(mask[frame])
            if path != last:
                told.append(f"{frame * 100 // len(mask)}:{path}")
            last = path
        text = ";".join(told)
        if len(text) <= MOST_CHARACTERS:
            break
    return text if "M" in text else ""


def safe_outline(text: object) -> str:
    """The text where it is an outline, else ""."""
    return text if isinstance(text, str) and len(text) <= MOST_CHARACTERS and SAFE.fullmatch(text) else ""


def _path(frame: np.ndarray) -> str:
    import cv2  # which collecting need not wait for

    square = cv2.resize(frame.astype(np.uint8), (UNITS, UNITS), interpolation=cv2.INTER_NEAREST)
    borders, _ = cv2.findContours(square, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    regions = sorted(borders, key=lambda border: -cv2.arcLength(border, True))[:MOST_REGIONS]
    tolerance = 1.0
    while sum(map(len, regions)) > MOST_POINTS and tolerance < UNITS:
        regions = [cv2.approxPolyDP(region, tolerance, True) for region in regions]
        tolerance *= 1.6
    return "".join(_closed(region[:, 0]) for region in regions)


def _closed(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points.tolist()) + "Z"
