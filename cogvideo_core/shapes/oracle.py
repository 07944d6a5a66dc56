"""Reads colour, shape, motion and background of a shapes clip back from its pixels, and the object's mask.

The object is what is colourful: backgrounds are nearly grey, so chroma (max - min of RGB) separates the two.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from cogvideo_core.shapes import world
from cogvideo_core.shapes.pattern import read_pattern

CHROMA = 70.0  # levels of 255: backgrounds stay under 20, objects over 120
MIN_AREA_PX = 30.0
MIN_SPEED_PX = 0.5  # a frame


@dataclass(frozen=True)
class Reading:
    """What the oracle saw; an attribute is "" where nothing clear was seen."""

    colour: str
    shape: str
    motion: str
    background: str
    mask: np.ndarray  # bool [F,H,W]

    def matches(self, wanted: world.Combination) -> dict[str, bool]:
        return {name: getattr(self, name) == value for name, value in wanted._asdict().items()}


def soft_mask(frames: np.ndarray) -> np.ndarray:
    """frames uint8 [F,H,W,3] -> float64 [F,H,W] in 0..1: chroma over the object's own chroma."""
    pixels = frames.astype(np.float64)
    chroma = pixels.max(-1) - pixels.min(-1)
    full = max(float(np.percentile(chroma, 97)), CHROMA)
    return np.clip((chroma - 20) / (full - 20), 0, 1) * (chroma > 20)


def read(frames: np.ndarray) -> Reading:
    """frames: uint8 [F,H,W,3], full-range RGB -> what they show."""
    soft = soft_mask(frames)
    hard = soft > 0.5
    seen = soft.sum((1, 2)) >= MIN_AREA_PX
    background = read_background(frames, hard)
    if seen.sum() < max(2, len(frames) // 2) or (frames.max(-1).astype(int) - frames.min(-1)).max() < CHROMA:
        return Reading("", "", "", background, np.zeros_like(hard))
    return Reading(read_colour(frames, soft), read_shape(soft[seen]), read_motion(soft, seen), background, hard)


def read_colour(frames: np.ndarray, soft: np.ndarray) -> str:
    """Nearest colour by hue of the object's inside."""
    r, g, b = frames[soft > 0.8].mean(0) / 255
    hue = colorsys.rgb_to_hsv(r, g, b)[0]

    def distance(name: str) -> float:
        other = colorsys.rgb_to_hsv(*(v / 255 for v in world.COLOURS[name]))[0]
        return min(abs(hue - other), 1 - abs(hue - other))

    return min(world.COLOURS, key=distance)


def centroids(soft: np.ndarray) -> np.ndarray:
    """Centre of mass of each frame: float64 [F,2], (x, y), pixel edges at integers."""
    v, u = np.mgrid[0 : soft.shape[1], 0 : soft.shape[2]] + 0.5
    mass = np.maximum(soft.sum((1, 2)), 1e-9)
    return np.stack([(soft * u).sum((1, 2)) / mass, (soft * v).sum((1, 2)) / mass], axis=-1)


def read_shape(soft: np.ndarray) -> str:
    """The template of equal area and centre that overlaps best, over all frames."""
    scores = dict.fromkeys(world.SHAPES, 0.0)
    for frame, (x, y) in zip(soft, centroids(soft), strict=True):
        radius = float(np.sqrt(frame.sum() / np.pi))
        for shape in world.SHAPES:
            template = world.coverage(shape, x, y, radius, frame.shape[0])
            scores[shape] += np.minimum(frame, template).sum() / np.maximum(frame, template).sum()
    return max(scores, key=lambda name: scores[name])


def read_motion(soft: np.ndarray, seen: np.ndarray) -> str:
    """Direction of the straight line fitted to the centroids; "" when the object hardly moves."""
    frames = np.flatnonzero(seen)
    vx, vy = np.polyfit(frames, centroids(soft)[frames], 1)[0]
    if max(abs(vx), abs(vy)) < MIN_SPEED_PX:
        return ""
    return max(world.MOTIONS, key=lambda name: world.MOTIONS[name][0] * vx + world.MOTIONS[name][1] * vy)


def read_background(frames: np.ndarray, mask: np.ndarray) -> str:
    """The kind that both the mean grey level outside the object and the pattern there say; "" where they differ."""
    outside = ~grow(mask)
    level = float(frames[outside].mean()) if outside.any() else float(frames.mean())
    kind = min(world.BACKGROUNDS, key=lambda name: abs(world.BACKGROUNDS[name] - level))
    return kind if read_pattern(frames, outside) == kind else ""


def grow(mask: np.ndarray, by: int = 2) -> np.ndarray:
    """bool [F,H,W] dilated by `by` pixels in each direction, frame by frame."""
    wide = np.pad(mask, ((0, 0), (by, by), (by, by)))
    size_y, size_x = mask.shape[1:]
    shifts = [wide[:, i : i + size_y, j : j + size_x] for i in range(2 * by + 1) for j in range(2 * by + 1)]
    return np.logical_or.reduce(shifts)
