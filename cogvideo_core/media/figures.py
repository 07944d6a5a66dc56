"""What small grey frames of a window tell: its brightness, how much is black, still or moves, and a perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image

BLACK, BLACK_SHARE = 26, 0.98  # a frame is black where so many pixels are below a tenth of white: ffmpeg's blackdetect
REPEATED = 0.25  # levels of 255, on average: -60 dB, ffmpeg's freezedetect
VISIBLE = 12  # levels of 255 by which a pixel must change to count as moving
HASHED = (0.0, 0.5, 1.0)  # places in a window whose frames are hashed

Figures = dict[str, float]


def figures(luma: np.ndarray) -> Figures:
    """Of the frames of a window, uint8 [K,H,W], K >= 1: `luma`, their mean; `black`, the share of black frames;
    `frozen`, the longest run of frames that repeat the one before, as a share; `moving`, the share of pixels that
    change visibly."""
    dark = (luma < BLACK).mean(axis=(1, 2)) >= BLACK_SHARE
    steps = np.abs(np.diff(luma.astype(np.int16), axis=0)).mean(axis=(1, 2))
    spread = luma.max(axis=0).astype(np.int16) - luma.min(axis=0)
    return {
        "luma": round(float(luma.mean()), 3),
        "black": round(float(dark.mean()), 4),
        "frozen": round(_longest_run(steps < REPEATED) / max(1, len(steps)), 4),
        "moving": round(float((spread > VISIBLE).mean()), 4),
    }


def _longest_run(flags: np.ndarray) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def hashes(luma: np.ndarray) -> list[str]:
    """Perceptual hashes (64 bits, as 16 hex digits) of a window's first, middle and last frame, uint8 [K,H,W].

    Copies that were re-encoded, resized or made a little brighter differ in few bits.
    """
    chosen = [luma[round(place * (len(luma) - 1))] for place in HASHED]
    return [str(imagehash.phash(Image.fromarray(frame))) for frame in chosen]


def packed(texts: Sequence[str]) -> np.ndarray:
    """Hashes as uint64 [3]."""
    return np.array([int(text, 16) for text in texts], np.uint64)


def distances(known: np.ndarray, hashed: np.ndarray) -> np.ndarray:
    """How many bits of 64 differ on average over the frames: known uint64 [N,3], hashed [3] -> float64 [N]."""
    return np.bitwise_count(known ^ hashed).mean(axis=1)
