"""How far an edit's pixels are from its source's: MSE, PSNR, SSIM, on whole frames or outside the mask.

Source of all: PIE-Bench (Ju et al. 2023, arXiv 2310.01506, cure-lab/PnPInversion, `evaluation/matrics_calculator.py`),
whose calculator FiVE-Bench uses frame by frame (arXiv 2503.13684). What is masked is set to black in both pictures, and
the whole picture is compared: so figures outside a mask rise with the mask's size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.metrics import structural_similarity

from cogvideo_core.media.quality import psnr

Compare = Callable[[np.ndarray, np.ndarray], float]


def mse(source: np.ndarray, edit: np.ndarray) -> float:
    """Mean squared error of one frame uint8 [H,W,3], on the scale where white is 1. Lower is better."""
    return float(np.square((source.astype(np.float64) - edit) / 255).mean())


def ssim(source: np.ndarray, edit: np.ndarray) -> float:
    """SSIM of one frame uint8 [H,W,3], at most 1: Gaussian window of 11 pixels and σ 1.5, population covariance, mean
    over channels and over the pixels that lie 5 or more from the border (Wang et al. 2004). Higher is better.

    The benchmarks call torchmetrics' StructuralSimilarityIndexMeasure. Frames of less than 11 pixels on a side have
    none (NaN).
    """
    if min(source.shape[:2]) < 11:
        return float("nan")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(source / 255, edit / 255, data_range=1.0, channel_axis=-1, **window))


COMPARED: dict[str, Compare] = {"mse": mse, "psnr": psnr, "ssim": ssim}  # psnr: dB, higher is better, 100 where equal


def compared(compare: Compare, source: np.ndarray, edit: np.ndarray) -> float:
    """The mean over the frames uint8 [F,H,W,3]; NaN for none.

    PSNR of a frame that equals its source is 100 dB; the benchmarks' code gives infinity, and so does its mean.
    """
    return mean([compare(a, b) for a, b in zip(source, edit, strict=True)])


def unedited(source: np.ndarray, edit: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with all that the mask bool [F,H,W] marks set to black; frames that it marks whole are left out."""
    some = ~mask.all((1, 2))
    kept = ~mask[some][..., None]
    return source[some] * kept, edit[some] * kept


def edited(edit: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The edit with all that the mask does not mark set to black; frames where it marks nothing are left out."""
    some = mask.any((1, 2))
    return edit[some] * mask[some][..., None]


def mean(values: list[float]) -> float:
    """Of the values that are numbers, as the benchmarks take it; NaN where none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
