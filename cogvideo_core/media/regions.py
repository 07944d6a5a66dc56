"""Scores of an edit with a mask: inside, outside, and along the border. Frames are uint8 [F,H,W,3]."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab

from cogvideo_core.media.quality import COMPARED_FRAMES, delta_e, flicker, psnr, similarity


class Mask(NamedTuple):
    """An edit's mask in pixels: how far each may change, float [F,H,W], and how far beyond it the outside begins."""

    alpha: np.ndarray
    margin_px: int

    @property
    def inside(self) -> np.ndarray:
        """Where the edit may change all: bool [F,H,W]."""
        return self.alpha >= 1

    @property
    def outside(self) -> np.ndarray:
        """What lies `margin_px` beyond the mask: bool [F,H,W]."""
        return ~widened(self.alpha > 0, self.margin_px)


LEAST_PIXELS = 100  # of a region; figures of a smaller one would be noise


def region_scores(
    source: np.ndarray, decoded: np.ndarray, edit: np.ndarray, alpha: np.ndarray, margin_px: int
) -> dict[str, float]:
    """What an edit did inside its mask and outside of it, against the source as the model saw it.

    decoded: the source as the VAE alone returns it. alpha: float [F,H,W], how far each pixel may change. Outside is
    what lies `margin_px` beyond the mask; inside is where alpha is 1. Regions of a few pixels have no scores.
    """
    stride = max(1, math.ceil(len(source) / COMPARED_FRAMES))
    source, decoded, edit, alpha = (frames[::stride] for frames in (source, decoded, edit, alpha))
    outside = ~widened(alpha > 0, margin_px)
    scores = {"mask_share": float((alpha > 0).mean()), "seam": seam(source, edit, alpha)}
    if outside.sum() >= LEAST_PIXELS:
        scores |= compared(source, edit, outside, "outside")
        scores["outside_below_vae_db"] = psnr(decoded[outside], source[outside]) - scores["outside_db"]
        scores["outside_flicker"] = flicker(source, edit, outside)
    if (inside := alpha >= 1).sum() >= LEAST_PIXELS:
        scores |= compared(source, edit, inside, "inside")
    return {name: round(value, 4) for name, value in scores.items() if math.isfinite(value)}


def compared(source: np.ndarray, edit: np.ndarray, region: np.ndarray, name: str) -> dict[str, float]:
    """PSNR in dB, SSIM and mean CIEDE2000 over a region bool [F,H,W]."""
    labs = [rgb2lab(frames[region] / 255.0) for frames in (source, edit)]
    return {
        f"{name}_db": psnr(source[region], edit[region]),
        f"{name}_ssim": similarity(source, edit, region),
        f"{name}_delta_e": delta_e(*labs)[0],
    }


def widened(mask: np.ndarray, by_px: int) -> np.ndarray:
    """bool [F,H,W] dilated by so many pixels in each direction, frame by frame."""
    return ndimage.maximum_filter(mask, (1, 2 * by_px + 1, 2 * by_px + 1)) if by_px else mask


def seam(source: np.ndarray, edit: np.ndarray, alpha: np.ndarray) -> float:
    """Mean step of grey between neighbouring pixels across the mask's outer border, edit over source; 1 where the
    border shows no more than the source does there. NaN without a border."""
    steps = np.zeros(2)
    for axis in (1, 2):
        across = np.diff((alpha > 0).astype(np.int8), axis=axis) != 0
        steps += [np.abs(np.diff(frames.mean(-1), axis=axis))[across].sum() for frames in (edit, source)]
    return float(steps[0] / steps[1]) if steps[1] > 0 else math.nan
